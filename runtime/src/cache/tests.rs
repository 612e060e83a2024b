use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use anynpu_hal::driver::noop::NoopDriver;
use anynpu_hal::{
    Bounds, Buffer, BufferDesc, Capabilities, DeviceInfo, Driver, EntryInfo, OpenOptions, Queue,
    Support, WeightView,
};
use anynpu_ir::{DType, Graph, Op, Shape, Subgraph, TensorType};

use super::*;

/// A device with compiled forms: a number under which it remembers what was compiled.
#[derive(Debug)]
struct Keeper {
    inner: Arc<dyn Device>,
    version: Vec<u8>,
    forms: Mutex<HashMap<Vec<u8>, Vec<Entry>>>,
    compiled: AtomicU32,
    verdict: Mutex<BlobCompatibility>,
}

#[derive(Debug)]
struct Kept {
    inner: Arc<dyn Module>,
    blob: Vec<u8>,
}

impl Module for Kept {
    fn entries(&self) -> &[EntryInfo] {
        self.inner.entries()
    }
    fn resident_bytes(&self) -> u64 {
        0
    }
    fn blob(&self) -> Result<Option<Vec<u8>>, HalError> {
        Ok(Some(self.blob.clone()))
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

impl Device for Keeper {
    fn info(&self) -> &DeviceInfo {
        self.inner.info()
    }
    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }
    fn support(&self, graph: &Subgraph<'_>) -> Vec<Support> {
        self.inner.support(graph)
    }
    fn compile(
        &self,
        entries: &[Entry],
        options: &CompileOptions,
        weights: Arc<dyn WeightSource>,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Arc<dyn Module>, HalError> {
        let inner = self.inner.compile(entries, options, weights, progress)?;
        let number = self.compiled.fetch_add(1, Ordering::Relaxed);
        let blob = format!("form {number}").into_bytes();
        self.forms.lock().insert(blob.clone(), entries.to_vec());
        Ok(Arc::new(Kept { inner, blob }))
    }
    fn compatibility(&self) -> Vec<u8> {
        self.version.clone()
    }
    fn check_blob(&self, _: &[u8]) -> BlobCompatibility {
        self.verdict.lock().clone()
    }
    fn load(
        &self,
        blob: &[u8],
        weights: Arc<dyn WeightSource>,
    ) -> Result<Arc<dyn Module>, HalError> {
        let entries = self.forms.lock().get(blob).cloned();
        let entries = entries.ok_or_else(|| HalError::BlobRejected {
            device: "keeper".into(),
            why: "unknown".into(),
        })?;
        let options = CompileOptions::new(DType::F32);
        let inner = self
            .inner
            .compile(&entries, &options, weights, &mut |_, _| true)?;
        let blob = blob.to_vec();
        Ok(Arc::new(Kept { inner, blob }))
    }
    fn allocate(&self, desc: &BufferDesc) -> Result<Arc<dyn Buffer>, HalError> {
        self.inner.allocate(desc)
    }
    fn queue(&self) -> &dyn Queue {
        self.inner.queue()
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

#[derive(Debug)]
struct Ones;

impl WeightSource for Ones {
    fn weight(&self, _: &str) -> Result<WeightView<'_>, HalError> {
        Ok(WeightView {
            dtype: DType::F32,
            bytes: vec![1; 4 * 4].into(),
        })
    }
}

struct Setting {
    keeper: Arc<Keeper>,
    device: Arc<dyn Device>,
    cache: Arc<Cache>,
    folder: tempfile::TempDir,
}

impl Setting {
    fn new(limit: u64) -> Self {
        let found = NoopDriver.enumerate().unwrap();
        let keeper = Arc::new(Keeper {
            inner: NoopDriver.open(&found[0], &OpenOptions::default()).unwrap(),
            version: b"v1".to_vec(),
            forms: Mutex::new(HashMap::new()),
            compiled: AtomicU32::new(0),
            verdict: Mutex::new(BlobCompatibility::Optimal),
        });
        let folder = tempfile::tempdir().unwrap();
        Setting {
            device: keeper.clone(),
            keeper,
            cache: Arc::new(Cache::new(
                Some(folder.path().join("compiled")),
                Vec::new(),
                limit,
            )),
            folder,
        }
    }

    /// Compiles a graph of the given name and tells how often the device has compiled by then.
    fn compile(&self, name: &str) -> u32 {
        let module = self.cache.compile(
            &Request {
                device: &self.device,
                entries: &[entry(name)],
                options: &CompileOptions::new(DType::F32),
                weights: &(Arc::new(Ones) as Arc<dyn WeightSource>),
            },
            &mut |_, _| true,
        );
        assert_eq!(module.unwrap().entries().len(), 1);
        self.keeper.compiled.load(Ordering::Relaxed)
    }

    fn files(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.folder.path().join("compiled"));
        let entry = |path: &PathBuf| path.extension().is_some_and(|e| e == EXTENSION);
        let files = files.map(|files| files.map(|f| f.unwrap().path()).filter(entry).collect());
        files.unwrap_or_default()
    }
}

fn entry(name: &str) -> Entry {
    let mut graph = Graph::new(name);
    let ty = TensorType::new(DType::F32, Shape::fixed(&[4]));
    let x = graph.add_input("x", ty.clone()).unwrap();
    let w = graph.add_weight("w", ty).unwrap();
    let y = graph
        .add("y", Op::Binary(anynpu_ir::BinaryOp::Add), &[x, w])
        .unwrap();
    graph.set_output(y).unwrap();
    Entry {
        name: "e".into(),
        graph: Arc::new(graph),
        nodes: 0..1,
        bounds: Bounds::new(),
    }
}

#[test]
fn what_was_compiled_is_loaded_the_next_time() {
    let setting = Setting::new(1 << 20);
    assert_eq!(setting.compile("a"), 1);
    assert_eq!(setting.compile("a"), 1);
    assert_eq!(setting.compile("b"), 2);
    assert_eq!(setting.compile("a"), 2);
    assert_eq!(setting.files().len(), 2);
    assert!(setting.cache.take_notes().is_empty());
}

#[test]
fn a_damaged_or_renamed_file_is_compiled_anew_and_told_of() {
    let setting = Setting::new(1 << 20);
    setting.compile("a");
    let path = setting.files().remove(0);
    let good = fs::read(&path).unwrap();
    for at in [0, 9, 41, 50, good.len() - 40, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, &bad).unwrap();
        let before = setting.keeper.compiled.load(Ordering::Relaxed);
        assert_eq!(setting.compile("a"), before + 1, "byte {at}");
        assert!(!setting.cache.take_notes().is_empty());
        assert_eq!(setting.compile("a"), before + 1, "byte {at}");
    }
    for length in [0, 10, 88, good.len() - 1] {
        fs::write(&path, &good[..length]).unwrap();
        let before = setting.keeper.compiled.load(Ordering::Relaxed);
        assert_eq!(setting.compile("a"), before + 1, "length {length}");
    }
    setting.compile("b");
    let other = setting.files().into_iter().find(|p| *p != path).unwrap();
    fs::copy(&other, &path).unwrap();
    setting.cache.take_notes();
    setting.compile("a");
    let notes = setting.cache.take_notes();
    assert!(notes[0].contains("another name"), "{notes:?}");
}

#[test]
fn lengths_that_overflow_are_refused() {
    let key = Key::of(
        &Request {
            device: &Setting::new(1).device,
            entries: &[],
            options: &CompileOptions::new(DType::F32),
            weights: &(Arc::new(Ones) as Arc<dyn WeightSource>),
        },
        b"",
    );
    let key = key.unwrap();
    for (a, b) in [
        (u64::MAX, 1),
        (u64::MAX, u64::MAX),
        (0, u64::MAX - 55),
        (1, 3),
    ] {
        let mut bytes = entry::encode(&key, b"ab", b"c");
        bytes.truncate(bytes.len() - 32);
        bytes[40..48].copy_from_slice(&a.to_le_bytes());
        bytes[48..56].copy_from_slice(&b.to_le_bytes());
        let hash = blake3::hash(&bytes);
        bytes.extend_from_slice(hash.as_bytes());
        assert!(entry::decode(bytes, &key).is_err(), "{a} {b}");
    }
    let whole = entry::encode(&key, b"ab", b"c");
    assert_eq!(entry::decode(whole, &key).unwrap(), b"c");
}

#[test]
fn a_device_decides_whether_a_form_is_loaded_replaced_or_dropped() {
    let setting = Setting::new(1 << 20);
    setting.compile("a");
    let verdict = |v| *setting.keeper.verdict.lock() = v;
    verdict(BlobCompatibility::Unsupported("another driver".into()));
    assert_eq!(setting.compile("a"), 2);
    verdict(BlobCompatibility::PreferRecompile(
        "a newer compiler".into(),
    ));
    let file = setting.files().remove(0);
    let before = fs::read(&file).unwrap();
    setting.compile("a");
    setting.cache.finish();
    assert_eq!(setting.keeper.compiled.load(Ordering::Relaxed), 3);
    assert_ne!(fs::read(&file).unwrap(), before);
    verdict(BlobCompatibility::Optimal);
    setting.keeper.forms.lock().clear();
    assert_eq!(setting.compile("a"), 4);
    assert!(setting.cache.take_notes()[0].contains("refused a compiled blob"));
}

#[test]
fn a_folder_that_can_not_be_written_costs_time_only() {
    let mut setting = Setting::new(1 << 20);
    let file = setting.folder.path().join("file");
    fs::write(&file, b"").unwrap();
    setting.cache = Arc::new(Cache::new(Some(file.join("compiled")), Vec::new(), 1 << 20));
    assert_eq!(setting.compile("a"), 1);
    assert_eq!(setting.compile("a"), 2);
    let notes = setting.cache.take_notes();
    assert!(notes.iter().any(|n| n.contains("not kept")), "{notes:?}");
}

#[test]
fn the_oldest_entries_make_room_and_what_never_fits_is_told() {
    let setting = Setting::new(1 << 20);
    setting.compile("a");
    let one = fs::metadata(setting.files().remove(0)).unwrap().len();
    let setting = Setting::new(2 * one + one / 2);
    for (name, age) in [("a", 300), ("b", 200)] {
        setting.compile(name);
        let new = setting
            .files()
            .into_iter()
            .max_by_key(|p| fs::metadata(p).unwrap().modified().unwrap());
        let time = SystemTime::now() - std::time::Duration::from_secs(age);
        let file = File::options().append(true).open(new.unwrap()).unwrap();
        file.set_modified(time).unwrap();
    }
    // used again, so `b` is the oldest
    assert_eq!(setting.compile("a"), 2);
    assert_eq!(setting.compile("c"), 3);
    assert_eq!(setting.files().len(), 2);
    assert_eq!(setting.compile("a"), 3);
    assert_eq!(setting.compile("b"), 4);
    let folder = setting.folder.path().join("compiled");
    for (name, age) in [("left", 2 * ABANDONED.as_secs()), ("in-use", 1)] {
        let path = folder.join(format!("{WRITING}{name}"));
        fs::write(&path, b"half").unwrap();
        let time = SystemTime::now() - std::time::Duration::from_secs(age);
        let file = File::options().append(true).open(&path).unwrap();
        file.set_modified(time).unwrap();
    }
    setting.compile("d");
    assert!(!folder.join(format!("{WRITING}left")).exists());
    assert!(folder.join(format!("{WRITING}in-use")).exists());
    let small = Setting::new(one - 1);
    small.compile("a");
    assert!(small.cache.take_notes()[0].contains("holds at most"));
    assert!(small.files().is_empty());
}

#[test]
fn threads_that_share_a_folder_never_see_half_an_entry() {
    let setting = Setting::new(1 << 20);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..20 {
                    setting.compile(["a", "b", "c"][round % 3]);
                    if round % 5 == 0 {
                        for path in setting.files() {
                            let _ = fs::remove_file(path);
                        }
                    }
                }
            });
        }
    });
    let notes = setting.cache.take_notes();
    assert!(notes.is_empty(), "{notes:?}");
}

#[test]
fn a_given_folder_is_looked_into_first_and_never_written() {
    let mut setting = Setting::new(1 << 20);
    setting.compile("a");
    let path = setting.files().remove(0);
    let given = vec![setting.folder.path().join("compiled")];
    setting.cache = Arc::new(Cache::new(None, given, 0));
    assert_eq!(setting.compile("a"), 1);
    assert!(setting.cache.take_notes().is_empty());
    // what is not in it is compiled, and that is told
    assert_eq!(setting.compile("b"), 2);
    assert_eq!(setting.files().len(), 1);
    let notes = setting.cache.take_notes();
    assert!(notes[0].contains("nothing is loaded from"), "{notes:?}");
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert_eq!(setting.compile("a"), 3);
    let notes = setting.cache.take_notes();
    assert!(notes[0].contains("is not used"), "{notes:?}");
    assert_eq!(fs::read(&path).unwrap(), bytes);
}
