use std::io::{Seek, SeekFrom, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::{BlobRef, Literal};
use super::*;

fn ios(version: u32) -> DeploymentTarget {
    format!("iOS{version}").parse().unwrap()
}

fn feature(name: &str, dtype: DataType, dims: &[u32]) -> Feature {
    Feature {
        name: name.into(),
        description: String::new(),
        dtype,
        dims: dims.to_vec(),
    }
}

/// `y = x · wᵀ`.
fn product(package: &mut PackageWriter, name: &str) -> Result<Function, CoreMlError> {
    let mut f = Function::new(name, package.target())?;
    let x = f.input(feature("x", DataType::F32, &[1, 4]))?;
    let offset = match package.find_blob("w") {
        Some(offset) => offset,
        None => package.append_blob("w", DataType::F32, 12, &[0; 48])?,
    };
    let (dtype, dims) = (DataType::F32, vec![3, 4]);
    let blob = BlobRef {
        dtype,
        dims,
        offset,
    };
    let w = f.weight("w", &blob)?;
    let operands = [("x", x.into()), ("weight", w.into())];
    let y = f.op("linear", "y", &operands, dtype, &[1, 3])?;
    f.output(y, feature("out", dtype, &[1, 3]))?;
    Ok(f)
}

fn write(disk: Box<dyn Disk>, path: &Path) -> Result<Written, CoreMlError> {
    let mut package = PackageWriter::create_on(disk, path, ios(18))?;
    for name in ["main", "second"] {
        let f = product(&mut package, name)?;
        package.add(f)?;
    }
    package.finish(&Description::default())
}

/// A disk that is full after so many calls.
#[derive(Debug)]
struct Small(Arc<AtomicU64>);

impl Small {
    fn take(&self) -> io::Result<()> {
        let left = &self.0;
        let taken = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        match taken {
            Ok(_) => Ok(()),
            Err(_) => Err(io::Error::from(io::ErrorKind::StorageFull)),
        }
    }
}

impl Disk for Small {
    fn make_folder(&self, path: &Path) -> io::Result<()> {
        self.take()?;
        FileSystem.make_folder(path)
    }

    fn make_file(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.take()?;
        let file = FileSystem.make_file(path)?;
        Ok(Box::new(SmallFile(Small(self.0.clone()), file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.take()?;
        FileSystem.rename(from, to)
    }

    fn remove(&self, folder: &Path) -> io::Result<()> {
        FileSystem.remove(folder)
    }
}

#[derive(Debug)]
struct SmallFile(Small, Box<dyn DiskFile>);

impl Write for SmallFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.take()?;
        self.1.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.1.flush()
    }
}

impl Seek for SmallFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.1.seek(to)
    }
}

impl DiskFile for SmallFile {
    fn sync(&mut self) -> io::Result<()> {
        self.0.take()?;
        self.1.sync()
    }
}

#[test]
fn a_package_is_there_whole_or_not_at_all_wherever_the_disk_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.mlpackage");
    let names = || std::fs::read_dir(folder.path()).unwrap().count();
    let mut room = 0;
    let written = loop {
        let left = Arc::new(AtomicU64::new(room));
        match write(Box::new(Small(left)), &path) {
            Ok(written) => break written,
            Err(CoreMlError::Io { source, .. }) => {
                assert_eq!(source.kind(), io::ErrorKind::StorageFull, "{room}");
                assert_eq!(names(), 0, "left over with room for {room}");
            }
            Err(e) => panic!("{e}"),
        }
        room += 1;
        assert!(room < 1000);
    };
    // every folder, file, write and sync has failed once
    assert!(room > 15, "{room}");
    assert!(written.weight_bytes > 0 && written.model_bytes > 0);
    assert_eq!(names(), 1);
    for file in [
        "Manifest.json",
        "Data/com.apple.CoreML/model.mlmodel",
        "Data/com.apple.CoreML/weights/weight.bin",
    ] {
        assert!(path.join(file).is_file(), "{file}");
    }
}

#[test]
fn what_is_there_is_left_alone_and_what_is_dropped_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.mlpackage");
    std::fs::write(&path, "mine").unwrap();
    let e = PackageWriter::create(&path, ios(18)).unwrap_err();
    assert!(
        matches!(&e, CoreMlError::Io { source, .. } if source.kind() == io::ErrorKind::AlreadyExists)
    );
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    std::fs::remove_file(&path).unwrap();
    let mut package = PackageWriter::create(&path, ios(18)).unwrap();
    product(&mut package, "main").unwrap();
    drop(package);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn functions_share_weights_and_are_described_each() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.mlpackage");
    let written = write(Box::new(FileSystem), &path).unwrap();
    assert_eq!(written.weight_bytes, 64 + 64 + 64);
    let bytes = std::fs::read(path.join("Data").join(MODEL)).unwrap();
    let model = proto::Model::decode(&bytes[..]).unwrap();
    assert_eq!(model.specification_version, 9);
    let description = model.description.unwrap();
    assert_eq!(description.default_function_name, "main");
    assert!(description.input.is_empty());
    let names: Vec<_> = description.functions.iter().map(|f| &f.name[..]).collect();
    assert_eq!(names, ["main", "second"]);
    let Some(proto::model::Type::MlProgram(program)) = model.r#type else {
        panic!("no program");
    };
    assert_eq!(program.functions["second"].opset, "CoreML8");
}

#[test]
fn the_same_package_is_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = ["a", "b"].map(|name| {
        let path = folder.path().join(name);
        write(Box::new(FileSystem), &path).unwrap();
        std::fs::read(path.join("Data").join(MODEL)).unwrap()
    });
    assert_eq!(bytes[0], bytes[1]);
}

#[test]
fn names_types_and_targets_that_do_not_fit_are_told() {
    let told = |e: CoreMlError| e.to_string();
    let e = told(Function::new("1st", ios(18)).unwrap_err());
    assert!(e.contains("function '1st' is no identifier"), "{e}");
    let mut f = Function::new("main", ios(15)).unwrap();
    for name in ["", "a.b", "ä", "a b", "0"] {
        let e = told(f.input(feature(name, DataType::F32, &[1])).unwrap_err());
        assert!(e.contains("is no identifier"), "{e}");
    }
    f.input(feature("x", DataType::F32, &[1])).unwrap();
    let e = told(f.input(feature("x", DataType::F32, &[1])).unwrap_err());
    assert!(e.contains("input 'x' is there already"), "{e}");
    let e = told(f.input(feature("h", DataType::F16, &[1])).unwrap_err());
    assert!(
        e.contains("needs iOS16 or macOS13 or later, the target is iOS15"),
        "{e}"
    );
    let e = told(f.state(feature("s", DataType::F32, &[1])).unwrap_err());
    assert!(e.contains("state 's' needs iOS18 or macOS15"), "{e}");
    let e = told(f.input(feature("b", DataType::Bool, &[1])).unwrap_err());
    assert!(e.contains("is bool, expected fp16, fp32 or int32"), "{e}");
    let e = told(f.input(feature("r", DataType::F32, &[1; 6])).unwrap_err());
    assert!(e.contains("6 dimensions, of at most 5"), "{e}");
    let one = f.constant(Literal::I32(1)).unwrap();
    let e = told(
        f.output(one, feature("o", DataType::I32, &[1]))
            .unwrap_err(),
    );
    assert!(e.contains("int32 [], expected int32 [1]"), "{e}");

    let folder = tempfile::tempdir().unwrap();
    let create = |name: &str, target| PackageWriter::create(&folder.path().join(name), target);
    let mut old = create("old", ios(17)).unwrap();
    let main = product(&mut old, "main").unwrap();
    old.add(main.clone()).unwrap();
    let e = told(old.add(main).unwrap_err());
    assert!(e.contains("function 'main' is there already"), "{e}");
    let second = product(&mut old, "second").unwrap();
    let e = told(old.add(second).unwrap_err());
    assert!(e.contains("'second', needs iOS18"), "{e}");
    let none = create("none", ios(18)).unwrap();
    let e = told(none.finish(&Description::default()).unwrap_err());
    assert!(e.contains("is none, expected one called main"), "{e}");
}

#[test]
fn constants_that_are_the_same_stand_once() {
    let mut f = Function::new("main", ios(18)).unwrap();
    let one = f.constant(Literal::I32s(vec![1, 2])).unwrap();
    assert_eq!(f.constant(Literal::I32s(vec![1, 2])).unwrap(), one);
    assert_ne!(f.constant(Literal::I32s(vec![1])).unwrap(), one);
    assert_ne!(f.constant(Literal::Float(DataType::F16, 1.0)).unwrap(), one);
    assert_eq!(f.operations(), 3);
    assert_eq!(f.histogram()["const"], 3);
}

#[test]
fn a_package_in_memory_has_the_files_of_one_on_a_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.mlpackage");
    let target: DeploymentTarget = "iOS18".parse().unwrap();
    let fill = |package: &mut PackageWriter| {
        let bytes = [1, 2, 3, 4];
        package.append_blob("w", DataType::I8, 4, &bytes).unwrap();
        let mut f = Function::new("main", target).unwrap();
        let feature = |name: &str| Feature {
            name: name.into(),
            description: String::new(),
            dtype: DataType::F16,
            dims: vec![2, 3],
        };
        let x = f.input(feature("x")).unwrap();
        f.output(x, feature("y")).unwrap();
        package.add(f).unwrap();
    };
    let mut on_disk = PackageWriter::create(&path, target).unwrap();
    fill(&mut on_disk);
    on_disk.finish(&Description::default()).unwrap();
    let mut in_memory = PackageWriter::in_memory(target).unwrap();
    fill(&mut in_memory);
    let made = in_memory.finish_in_memory(&Description::default()).unwrap();
    let read = |name: &str| std::fs::read(path.join("Data").join(name)).unwrap();
    assert_eq!(made.model, read(MODEL));
    assert_eq!(made.weights, read("com.apple.CoreML/weights/weight.bin"));
    assert!(!made.weights.is_empty() && !made.model.is_empty());
    // one on a disk is not in memory
    let other = folder.path().join("y.mlpackage");
    let mut on_disk = PackageWriter::create(&other, target).unwrap();
    fill(&mut on_disk);
    assert!(on_disk.finish_in_memory(&Description::default()).is_err());
    assert!(!other.exists());
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let function = |target: u32| Function::new("main", ios(target)).unwrap();
    let x = || feature("x", DataType::F32, &[4, 8]);
    let shapes = |all: &[&[u32]]| -> Vec<Vec<u32>> { all.iter().map(|s| s.to_vec()).collect() };
    let fitting = shapes(&[&[1, 8], &[4, 8], &[64, 8]]);
    let many: Vec<Vec<u32>> = (1..=129).map(|n| vec![n, 8]).collect();
    for (all, told) in [
        (shapes(&[&[4, 8]]), "is 1, expected 2 to 128"),
        (many, "is 129, expected 2 to 128"),
        (shapes(&[&[4, 8], &[4]]), "[4], expected 2 dimensions"),
        (shapes(&[&[4, 8], &[0, 8]]), "[0, 8], expected 2 dimensions"),
        (shapes(&[&[4, 8], &[ANY, 8]]), "expected 2 dimensions of 1"),
        (shapes(&[&[1, 8], &[2, 8]]), "expected [4, 8] among them"),
        (shapes(&[&[4, 8], &[4, 8]]), "expected each once"),
    ] {
        let e = function(17).input_of_shapes(x(), &all).unwrap_err();
        let e = e.to_string();
        assert!(
            e.contains("the shapes of input 'x'") && e.contains(told),
            "{e}"
        );
    }
    let mut f = function(17);
    let tensor = f.input_of_shapes(x(), &fitting).unwrap();
    assert_eq!(f.dims(tensor), [ANY, 8]);
    let e = f.input_of_shapes(feature("y", DataType::F32, &[4, 8]), &fitting);
    let e = e.unwrap_err().to_string();
    let told = "a second input of several shapes, 'y', needs iOS18 or macOS15 or later, the target is iOS17";
    assert_eq!(e, told);
    let mut f = function(18);
    f.input_of_shapes(x(), &fitting).unwrap();
    let e = f.input_of_shapes(feature("y", DataType::F32, &[4, 8]), &fitting[..2]);
    let e = e.unwrap_err().to_string();
    assert!(e.contains("is 2, expected 3, as another input has"), "{e}");
    f.input_of_shapes(feature("y", DataType::F32, &[4, 8]), &fitting)
        .unwrap();
    let e = f.input_of_shapes(x(), &fitting).unwrap_err().to_string();
    assert!(e.contains("'x' is there already"), "{e}");
}

#[test]
fn what_a_process_left_that_was_ended_goes_with_the_next_package() {
    let folder = tempfile::tempdir().unwrap();
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    let left = |name: &str, old_too: bool| {
        let path = folder.path().join(format!("{WRITING}{name}"));
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("weight.bin"), "half").unwrap();
        let file = File::open(&path).unwrap();
        if old_too {
            file.set_modified(old).unwrap();
        }
        (path, file)
    };
    let ((ended, _), (new, _), (other, held)) =
        (left("1-0", true), left("2-0", false), left("3-0", true));
    held.try_lock().unwrap();
    std::fs::create_dir(folder.path().join("mine")).unwrap();
    write(Box::new(FileSystem), &folder.path().join("x.mlpackage")).unwrap();
    assert!(!ended.exists() && new.exists() && other.exists());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 4);
}

#[test]
fn errors_name_the_package_and_what_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.mlpackage");
    let told = |room| {
        let left = Arc::new(AtomicU64::new(room));
        write(Box::new(Small(left)), &path).unwrap_err().to_string()
    };
    assert!(told(0).starts_with(&format!("writing into {}:", folder.path().display())));
    for room in 1..8 {
        let told = told(room);
        assert!(told.contains(path.to_str().unwrap()), "{told}");
    }
    std::fs::write(&path, "").unwrap();
    let told = told(99);
    assert!(told.ends_with("x.mlpackage: something is there; remove it, or name another place"));
}
