//! Opening models and placing them, as the shared options say.

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use anynpu::plan::{Pin, Placement};
use anynpu::probe::{ProbeOptions, probe};
use anynpu::profile::Profile;
use anynpu::{
    CancelToken, KvType, LoadOptions, LoadProgress, LoadStage, LoadedModel, ModelSource, OpenModel,
    Precision, Runtime, RuntimeBuilder,
};
use anynpu_backends::{BackendOptions, Drivers};
use anynpu_ir::{DType, Graph};
use indicatif::ProgressBar;

use crate::args::{self, ModelArg, PlacementArgs, VendorArgs};
use crate::commands::plugins;
use crate::commands::serve_driver::isolated;
use crate::output;

impl ModelArg {
    /// The file, or the built-in model.
    pub fn source(&self) -> ModelSource {
        match &self.model {
            Some(path) => ModelSource::File(path.clone()),
            None => anynpu::story_model(),
        }
    }

    /// Reads the model without placing it.
    pub fn open(&self) -> anyhow::Result<OpenModel> {
        let what = self.what();
        match OpenModel::open(self.source()) {
            // errors of files tell which
            Err(e) if e.to_string().starts_with(&what) => Err(e.into()),
            opened => opened.context(what),
        }
    }

    /// Its name for messages and results.
    pub fn what(&self) -> String {
        match &self.model {
            Some(path) => path.display().to_string(),
            None => "the built-in story model".to_owned(),
        }
    }
}

impl VendorArgs {
    /// What backends are told.
    pub fn options(&self) -> BackendOptions {
        let mut options = BackendOptions::default();
        options.qnn.library.clone_from(&self.qnn_library);
        options.qnn.soc.clone_from(&self.qnn_soc);
        options.qnn.weights = self.qnn_weights;
        options.qnn.ranges.clone_from(&self.qnn_ranges);
        options.qnn.power = self.qnn_power;
        options.qnn.context_bytes = self.qnn_context_mib.map(|mib| u64::from(mib) << 20);
        options.qnn.rpc_memory.clone_from(&self.qnn_rpcmem);
        options.qnn.tables.clone_from(&self.qnn_tables);
        options.nnapi.library.clone_from(&self.nnapi_library);
        options.nnapi.numbers = self.nnapi_numbers;
        options.nnapi.weights = self.nnapi_weights;
        options.nnapi.ranges.clone_from(&self.nnapi_ranges);
        options.nnapi.states = self.nnapi_states;
        options.nnapi.preference = self.nnapi_preference;
        options.nnapi.priority = self.nnapi_priority;
        options.nnapi.timeout_ms = self.nnapi_timeout_ms;
        options.nnapi.cache.clone_from(&self.nnapi_cache);
        options.coreml.cache.clone_from(&self.coreml_cache);
        options
    }
}

impl VendorArgs {
    /// The arguments that say the same to a process of its own.
    pub fn arguments(&self) -> Vec<OsString> {
        let form = self.qnn_weights.map(|f| OsString::from(f.name()));
        let each = [
            (
                "--qnn-library",
                self.qnn_library.clone().map(OsString::from),
            ),
            ("--qnn-soc", self.qnn_soc.clone().map(OsString::from)),
            ("--qnn-weights", form),
            ("--qnn-ranges", self.qnn_ranges.clone().map(OsString::from)),
            (
                "--qnn-power",
                self.qnn_power.map(|m| OsString::from(m.name())),
            ),
            (
                "--qnn-context-mib",
                self.qnn_context_mib.map(|n| n.to_string().into()),
            ),
            ("--qnn-rpcmem", self.qnn_rpcmem.clone().map(OsString::from)),
            ("--qnn-tables", self.qnn_tables.clone().map(OsString::from)),
            (
                "--nnapi-library",
                self.nnapi_library.clone().map(OsString::from),
            ),
            (
                "--nnapi-numbers",
                self.nnapi_numbers.map(|n| OsString::from(n.name())),
            ),
            (
                "--nnapi-weights",
                self.nnapi_weights.map(|w| OsString::from(w.name())),
            ),
            (
                "--nnapi-ranges",
                self.nnapi_ranges.clone().map(OsString::from),
            ),
            (
                "--nnapi-states",
                self.nnapi_states.map(|s| OsString::from(s.name())),
            ),
            (
                "--nnapi-preference",
                self.nnapi_preference.map(|p| OsString::from(p.name())),
            ),
            (
                "--nnapi-priority",
                self.nnapi_priority.map(|p| OsString::from(p.name())),
            ),
            (
                "--nnapi-timeout-ms",
                self.nnapi_timeout_ms.map(|n| n.to_string().into()),
            ),
            (
                "--nnapi-cache",
                self.nnapi_cache.clone().map(OsString::from),
            ),
            (
                "--coreml-cache",
                self.coreml_cache.clone().map(OsString::from),
            ),
        ];
        let given = each
            .into_iter()
            .filter_map(|(name, value)| Some([name.into(), value?]));
        given.flatten().collect()
    }
}

impl PlacementArgs {
    /// What is said of vendors' libraries, with the folder of what is known of them.
    fn vendors(&self) -> VendorArgs {
        let mut vendors = self.vendors.clone();
        let known = || tables(self.cache_dir.as_deref(), self.no_cache);
        vendors.qnn_tables = vendors.qnn_tables.or_else(known);
        let kept = || kept_in(self.cache_dir.as_deref(), self.no_cache, "nnapi");
        vendors.nnapi_cache = vendors.nnapi_cache.or_else(kept);
        let kept = || kept_in(self.cache_dir.as_deref(), self.no_cache, "coreml");
        vendors.coreml_cache = vendors.coreml_cache.or_else(kept);
        vendors
    }

    /// Opens the devices.
    pub fn runtime(&self) -> anyhow::Result<Runtime> {
        let (drivers, devices) =
            anynpu_backends::drivers_for(&self.device, &self.vendors().options())?;
        self.open(drivers, devices, Runtime::builder(), self.profiles()?)
    }

    /// Opens the devices; if there is no profile, what `open` needs of them is measured first.
    pub fn measured_runtime(&self, open: &OpenModel) -> anyhow::Result<Runtime> {
        let runtime = self.runtime()?;
        if !runtime.cost().profiles().is_empty() {
            return Ok(runtime);
        }
        output::note(
            "there is no profile; what the model needs of the devices is measured first (see `anynpu probe`)",
        );
        let profile = probe(
            &runtime,
            ProbeOptions {
                quick: false,
                weights: Some(matrix_types(open.model().graph())),
                progress: &mut |device, what| output::note(&format!("{device}: {what}")),
            },
        );
        drop(runtime);
        let (drivers, devices) =
            anynpu_backends::drivers_for(&self.device, &self.vendors().options())?;
        self.open(drivers, devices, Runtime::builder(), vec![profile])
    }

    /// Opens the devices to plan for: those of the profiles if none are named, even if they are not here.
    pub fn runtime_for_plans(&self) -> anyhow::Result<Runtime> {
        let profiles = self.profiles()?;
        let in_profile = |name: &&String| profiles.iter().any(|p| p.device(name).is_some());
        let (drivers, mut devices) =
            match anynpu_backends::drivers_for(&self.device, &self.vendors().options()) {
                // a simulated device is called so in profiles too
                Err(_) if self.device.iter().all(|n| in_profile(&n)) => (
                    anynpu_backends::drivers_with(&self.vendors().options()),
                    self.device.clone(),
                ),
                found => found?,
            };
        if devices.is_empty() {
            let all = profiles.iter().flat_map(|p| &p.devices);
            devices.extend(all.map(|d| d.name.clone()));
        }
        self.open(drivers, devices, Runtime::builder().plan_only(), profiles)
    }

    fn profiles(&self) -> anyhow::Result<Vec<Profile>> {
        let profiles = self.profile.iter().map(Profile::load);
        Ok(profiles.collect::<Result<_, _>>()?)
    }

    fn open(
        &self,
        mut drivers: Drivers,
        devices: Vec<String>,
        builder: RuntimeBuilder,
        profiles: Vec<Profile>,
    ) -> anyhow::Result<Runtime> {
        if self.isolate {
            drivers = isolated(drivers, &self.device, &self.vendors())?;
        }
        let plugins = self.plugins.named(self.isolate)?;
        let mut builder = builder.drivers(drivers);
        for driver in &plugins {
            // one without devices tells why when one of them is asked for, or in `devices`
            for device in driver.enumerate().unwrap_or_default() {
                builder = builder.prefer(device.info.name);
            }
        }
        builder = builder.drivers(plugins);
        builder = builder.drivers(plugins::of_environment(self.isolate)?);
        for name in devices {
            builder = builder.device(name);
        }
        // what is pinned to is named
        for pin in &self.placement()?.pins {
            builder = builder.also(pin.device());
        }
        for name in &self.forbid {
            builder = builder.forbid(name);
        }
        if let Some(threads) = self.threads {
            builder = builder.threads(threads as usize);
        }
        if let Some(features) = &self.cpu_features {
            builder = builder.device_option("cpu", "features", features);
        }
        if let Some(folder) = &self.cache_dir {
            builder = builder.cache_folder(folder);
        } else if let Some(folder) = users_caches() {
            builder = builder.default_cache_folder(folder.join("anynpu"));
        }
        for folder in &self.compiled {
            builder = builder.compiled(folder);
        }
        if self.no_cache {
            builder = builder.without_cache();
        }
        for profile in profiles {
            builder = builder.profile(profile);
        }
        let runtime = builder.build()?;
        for warning in runtime.warnings() {
            tracing::warn!("{warning}");
        }
        Ok(runtime)
    }

    /// Pins and requirements.
    pub fn placement(&self) -> anyhow::Result<Placement> {
        let pins: Result<Vec<Pin>, _> = self.place.iter().map(|p| p.parse()).collect();
        Ok(Placement {
            pins: pins?,
            require: self.require.clone(),
        })
    }

    /// How to load, for a context of `context` tokens.
    pub fn load_options(&self, context: Option<u32>) -> anyhow::Result<LoadOptions> {
        let mut options = LoadOptions::new()
            .kv_type(kv_type(self.kv_type))
            .placement(self.placement()?)
            .cancel(interrupt());
        options.precision = match self.precision {
            args::Precision::Model => Precision::Model,
            args::Precision::F32 => Precision::F32,
            args::Precision::Bf16 => Precision::Bf16,
            args::Precision::F16 => Precision::F16,
        };
        options.background = self.background;
        options.self_check = self.self_check;
        Ok(match context {
            Some(tokens) => options.context(tokens),
            None => options,
        })
    }

    /// Loads `model` with a progress bar.
    pub fn load(&self, model: &ModelArg, context: Option<u32>) -> anyhow::Result<LoadedModel> {
        let bar = output::progress_bar("loading");
        let options = self.load_options(context)?.progress(shown_on(&bar));
        let runtime = self.runtime()?;
        let loaded = runtime.load(model.source(), options);
        bar.finish_and_clear();
        let loaded = loaded.with_context(|| model.what())?;
        // those of the runtime were told already
        let warnings = loaded.warnings().iter();
        for warning in warnings.filter(|w| !runtime.warnings().contains(w)) {
            tracing::warn!("{warning}");
        }
        Ok(loaded)
    }
}

/// The type of the KV cache as the library names it.
pub fn kv_type(given: args::KvType) -> KvType {
    match given {
        args::KvType::Auto => KvType::Auto,
        args::KvType::F32 => KvType::F32,
        args::KvType::F16 => KvType::F16,
        args::KvType::Q8_0 => KvType::Q8_0,
    }
}

/// Shows on `bar` how far devices have compiled.
pub fn shown_on(bar: &ProgressBar) -> impl FnMut(LoadProgress) -> ControlFlow<()> + Send + 'static {
    let shown = bar.clone();
    move |p| {
        if p.stage == LoadStage::Compile {
            shown.set_length(p.total.max(1));
            shown.set_position(p.done);
        }
        ControlFlow::Continue(())
    }
}

/// Types that matrices of `graph` have.
fn matrix_types(graph: &Graph) -> Vec<DType> {
    let mut types = Vec::new();
    for weight in graph.weights() {
        let ty = graph.ty(weight.value);
        if ty.shape.rank() >= 2 && !types.contains(&ty.dtype) {
            types.push(ty.dtype);
        }
    }
    types
}

/// The drivers as `vendors` and the environment say, with the tables in the folder for caches.
pub fn drivers(vendors: &VendorArgs) -> Drivers {
    let mut options = vendors.options();
    options.qnn.tables = options.qnn.tables.or_else(|| tables(None, false));
    anynpu_backends::drivers_with(&options)
}

/// The folder of tables of what chips compute right, in the folder for caches.
pub fn tables(cache_dir: Option<&Path>, no_cache: bool) -> Option<PathBuf> {
    kept_in(cache_dir, no_cache, "operations")
}

/// The folder `name` in the folder for caches.
fn kept_in(cache_dir: Option<&Path>, no_cache: bool, name: &str) -> Option<PathBuf> {
    let set = || std::env::var_os("ANYNPU_CACHE_DIR").filter(|d| !d.is_empty());
    let folder = match (no_cache, cache_dir) {
        (true, _) => return None,
        (false, Some(folder)) => Some(folder.to_owned()),
        (false, None) => set().map(PathBuf::from),
    };
    let folder = folder.or_else(|| Some(users_caches()?.join("anynpu")));
    Some(folder?.join(name))
}

/// Where the system wants programs to keep what they can make again.
fn users_caches() -> Option<PathBuf> {
    let folder = |variable: &str, below: &str| {
        let folder = PathBuf::from(std::env::var_os(variable)?);
        folder.is_absolute().then(|| folder.join(below))
    };
    match std::env::consts::OS {
        "macos" | "ios" => folder("HOME", "Library/Caches"),
        "windows" => folder("LOCALAPPDATA", ""),
        _ => folder("XDG_CACHE_HOME", "").or_else(|| folder("HOME", ".cache")),
    }
}

/// Whether nothing is being done that Ctrl-C could stop.
static WAITING: AtomicBool = AtomicBool::new(false);

/// Says whether the program waits for the user, so that Ctrl-C ends it at once.
pub fn waiting(yes: bool) {
    WAITING.store(yes, Ordering::Relaxed);
}

/// Cancelled by Ctrl-C; a second Ctrl-C, or one while the program waits for the user, ends the
/// process at once.
pub fn interrupt() -> CancelToken {
    static TOKEN: OnceLock<CancelToken> = OnceLock::new();
    let token = TOKEN.get_or_init(|| {
        let token = CancelToken::new();
        let handler = token.clone();
        let set = ctrlc::set_handler(move || {
            if handler.is_cancelled() || WAITING.load(Ordering::Relaxed) {
                std::process::exit(130);
            }
            handler.cancel();
        });
        if let Err(e) = set {
            tracing::warn!("Ctrl-C will end the program at once: {e}");
        }
        token
    });
    token.clone()
}

/// Reads a text file, whatever its encoding: bytes that are no UTF-8 become U+FFFD.
pub fn read_text(path: &Path) -> anyhow::Result<String> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    let text = String::from_utf8_lossy(&bytes);
    if matches!(text, std::borrow::Cow::Owned(_)) {
        tracing::warn!("{}: bytes that are not UTF-8 were replaced", path.display());
    }
    Ok(text.into_owned())
}
