use super::*;

fn key(model: &str, system: &str) -> Key {
    Key {
        model: model.into(),
        system: system.into(),
    }
}

fn cache(folder: &tempfile::TempDir, limit: u64) -> CacheFolder {
    CacheFolder {
        path: folder.path().to_owned(),
        limit,
    }
}

fn names(folder: &Path) -> Vec<String> {
    let all = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = all
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Fills a folder with `bytes` bytes and a record.
fn filled(bytes: usize) -> impl Fn(&Path) -> Result<Record, CoreMlError> {
    move |folder| {
        fs::create_dir(folder.join("0.mlmodelc")).unwrap();
        fs::write(folder.join("0.mlmodelc/weights"), vec![1; bytes]).unwrap();
        Ok(Record::new(Vec::new(), 0))
    }
}

fn fill(folder: &Path) -> Result<Record, CoreMlError> {
    filled(1)(folder)
}

/// Has what is kept under `key` be used so many hours ago.
fn used(cache: &CacheFolder, key: &Key, hours: u64) {
    let record = File::open(cache.path.join(key.name()).join(RECORD)).unwrap();
    let time = SystemTime::now() - Duration::from_secs(3600 * hours);
    record.set_modified(time).unwrap();
}

#[test]
fn what_was_made_is_found_until_another_system_makes_it() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(&folder, u64::MAX);
    let first = key("a", "14");
    assert!(find(&cache, &first).is_none());
    let (kept, _) = make(Some((&cache, &first)), fill).unwrap();
    drop(kept);
    let (kept, record) = find(&cache, &first).unwrap();
    assert_eq!(record.packages(), 0);
    assert!(kept.path().join("0.mlmodelc/weights").is_file());
    drop(kept);
    drop(make(Some((&cache, &key("b", "14"))), fill).unwrap());
    drop(make(Some((&cache, &key("a", "15"))), fill).unwrap());
    assert_eq!(names(folder.path()), ["a.15", "b.14"]);
    // a second one of the same is used by whoever made it, and goes
    let again = make(Some((&cache, &key("b", "14"))), fill).unwrap();
    assert!(again.0.path().join("0.mlmodelc").is_dir());
    drop(again);
    assert_eq!(names(folder.path()), ["a.15", "b.14"]);
}

#[test]
fn what_fails_or_is_broken_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(&folder, u64::MAX);
    let key = key("a", "14");
    let failing = |folder: &Path| {
        fill(folder)?;
        Err(CoreMlError::NotThere {
            what: "a compiler",
            why: "a test".into(),
        })
    };
    assert!(make(Some((&cache, &key)), failing).is_err());
    assert_eq!(names(folder.path()), Vec::<String>::new());
    let record = folder.path().join("a.14").join(RECORD);
    let function = r#"{"package":PACKAGE,"function":null,"tokens":1,"capacity":0,"numbered":[],"inputs":[],
        "outputs":[],"states":[],"nodes":[]}"#;
    let of = |package: &str, schema: u32| {
        let function = function.replace("PACKAGE", package);
        format!(
            r#"{{"schema_version":{schema},"functions":[{function}],"weight_bytes":0,"plans":[]}}"#
        )
    };
    for broken in [
        String::new(),
        "{}".into(),
        of("0", 9),
        of("1", SCHEMA),
        of(&u64::MAX.to_string(), SCHEMA),
        of("-1", SCHEMA),
        of("0", SCHEMA)[1..].into(),
    ] {
        drop(make(Some((&cache, &key)), fill).unwrap());
        fs::write(&record, &broken).unwrap();
        assert!(find(&cache, &key).is_none(), "{broken}");
        assert_eq!(names(folder.path()), Vec::<String>::new());
    }
    drop(make(Some((&cache, &key)), fill).unwrap());
    fs::write(&record, of("0", SCHEMA)).unwrap();
    assert!(find(&cache, &key).is_some());
}

#[test]
fn what_has_the_name_of_a_folder_and_is_none_gives_way() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(&folder, u64::MAX);
    let key = key("a", "14");
    let place = folder.path().join("a.14");
    let spoil: [&dyn Fn(); 3] = [
        &|| fs::write(&place, "a file").unwrap(),
        &|| fs::create_dir_all(place.join("0.mlmodelc")).unwrap(),
        &|| fs::create_dir_all(place.join(RECORD)).unwrap(),
    ];
    for spoil in spoil {
        spoil();
        assert!(find(&cache, &key).is_none());
        drop(make(Some((&cache, &key)), fill).unwrap());
        assert!(find(&cache, &key).is_some());
        assert_eq!(names(folder.path()), ["a.14"]);
        remove(&place);
    }
}

#[cfg(unix)]
#[test]
fn links_lead_nowhere() {
    let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let target = outside.path().join("target");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("precious"), vec![1; 5000]).unwrap();
    std::os::unix::fs::symlink(&target, folder.path().join("c.14")).unwrap();
    let cache = cache(&folder, 1000);
    drop(make(Some((&cache, &key("a", "14"))), fill).unwrap());
    drop(make(Some((&cache, &key("c", "14"))), fill).unwrap());
    assert!(target.join("precious").is_file());
    assert_eq!(names(folder.path()), ["a.14", "c.14"]);
}

#[test]
fn what_was_used_longest_ago_makes_room() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(&folder, 3500);
    let keys = ["a", "b", "c", "d"].map(|m| key(m, "14"));
    for (key, hours) in keys[..3].iter().zip([2, 3, 1]) {
        drop(make(Some((&cache, key)), filled(1000)).unwrap());
        used(&cache, key, hours);
    }
    // a file of somebody else's is left alone, however large
    fs::write(folder.path().join("somebody's"), vec![0; 10_000]).unwrap();
    fs::create_dir(folder.path().join("notes.txt")).unwrap();
    drop(find(&cache, &keys[1]).unwrap());
    drop(make(Some((&cache, &keys[3])), filled(1000)).unwrap());
    let left = ["b.14", "c.14", "d.14", "notes.txt", "somebody's"];
    assert_eq!(names(folder.path()), left);
    // what is in use stays, and the next goes
    used(&cache, &keys[1], 9);
    let in_use = find(&cache, &keys[1]).unwrap();
    used(&cache, &keys[1], 9);
    drop(make(Some((&cache, &keys[0])), filled(1000)).unwrap());
    let left = ["a.14", "b.14", "d.14", "notes.txt", "somebody's"];
    assert_eq!(names(folder.path()), left);
    drop(in_use);
    // what is larger than all may be is used and not kept
    let (kept, _) = make(Some((&cache, &keys[2])), filled(5000)).unwrap();
    assert!(kept.path().join("0.mlmodelc/weights").is_file());
    drop(kept);
    assert_eq!(names(folder.path()), left);
}

#[test]
fn what_is_in_use_outlives_a_newer_system() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(&folder, u64::MAX);
    let (kept, _) = make(Some((&cache, &key("a", "14"))), fill).unwrap();
    drop(make(Some((&cache, &key("a", "15"))), fill).unwrap());
    assert!(kept.path().join("0.mlmodelc/weights").is_file());
    drop(kept);
    remove(&folder.path().join("a.15"));
    drop(make(Some((&cache, &key("a", "15"))), fill).unwrap());
    assert_eq!(names(folder.path()), ["a.15"]);
}

#[test]
fn what_a_process_left_half_made_goes_after_a_day() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(&folder, u64::MAX);
    for (name, hours) in [(".making-1", 25), (".making-2", 1), (".removing-3", 25)] {
        let path = folder.path().join(name);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("weights"), "w").unwrap();
        let time = SystemTime::now() - Duration::from_secs(3600 * hours);
        File::open(&path).unwrap().set_modified(time).unwrap();
    }
    drop(make(Some((&cache, &key("a", "14"))), fill).unwrap());
    assert_eq!(names(folder.path()), [".making-2", "a.14"]);
}

#[test]
fn many_at_once_find_whole_folders_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(&folder, 3000);
    let one = |worker: usize| {
        for i in 0..40 {
            let key = key(["a", "b", "c", "d"][(worker + i) % 4], "14");
            let found = find(&cache, &key);
            let kept = found.map_or_else(
                || make(Some((&cache, &key)), filled(1000)).unwrap().0,
                |(kept, _)| kept,
            );
            for _ in 0..3 {
                let weights = fs::read(kept.path().join("0.mlmodelc/weights")).unwrap();
                assert_eq!(weights.len(), 1000);
                std::thread::yield_now();
            }
        }
    };
    std::thread::scope(|scope| {
        for worker in 0..4 {
            scope.spawn(move || one(worker));
        }
    });
    drop(make(Some((&cache, &key("e", "14"))), filled(1000)).unwrap());
    assert!(size(folder.path()) <= 3000, "{:?}", names(folder.path()));
}

#[test]
fn without_a_cache_it_lives_as_long_as_it_is_held() {
    let (kept, _) = make(None, fill).unwrap();
    let path = kept.path().to_owned();
    assert!(path.join("0.mlmodelc/weights").is_file());
    drop(kept);
    assert!(!path.exists());
}
