//! Environment variables that change what the runtime does. Options given in code win over them.

use std::ffi::OsString;
use std::time::Duration;

use crate::RuntimeError;

/// One environment variable, for listings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Knob {
    /// Its name.
    pub name: &'static str,
    /// What its value is.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// What holds where it is not set.
    pub default: &'static str,
    /// What it does.
    pub meaning: &'static str,
}

/// Every variable's prefix.
const PREFIX: &str = "ANYNPU_";

/// Declares each variable once: its field, its type, its name, its default in code and in words.
macro_rules! knobs {
    ($( $(#[doc = $meaning:literal])+ $field:ident: $type:ty = $name:literal, $default:expr, $words:literal; )+) => {
        /// The values of the environment variables.
        #[derive(Clone, Debug, PartialEq)]
        #[non_exhaustive]
        pub struct Knobs {
            $( $(#[doc = $meaning])+ pub $field: $type, )+
        }

        impl Default for Knobs {
            fn default() -> Self {
                Knobs { $( $field: $default, )+ }
            }
        }

        /// Every environment variable that is read.
        pub const KNOBS: &[Knob] = &[
            $( Knob {
                name: $name,
                kind: <$type as Value>::KIND,
                default: $words,
                meaning: concat!($($meaning),+).trim_ascii(),
            }, )+
        ];

        impl Knobs {
            /// Sets the variable called `name`; false if there is none.
            fn set(&mut self, name: &str, value: &str) -> Result<bool, RuntimeError> {
                match name {
                    $( $name => {
                        self.$field = <$type as Value>::parse(value).ok_or_else(|| {
                            RuntimeError::Knob {
                                name: $name,
                                found: value.to_owned(),
                                expected: <$type as Value>::KIND,
                            }
                        })?;
                    } )+
                    _ => return Ok(false),
                }
                Ok(true)
            }
        }
    };
}

knobs! {
    /// Threads of devices that use the host's, where the program gives no number.
    threads: Option<Positive> = "ANYNPU_THREADS", None, "the fast cores";
    /// Most tokens processed at once while reading a prompt.
    prefill_chunk: Positive = "ANYNPU_PREFILL_CHUNK", Positive(256), "256";
    /// Longest time one step of a device may take before it counts as hung.
    step_timeout: Milliseconds = "ANYNPU_STEP_TIMEOUT_MS", Milliseconds(600_000), "600000";
    /// Folder in which what devices compile is kept for the next start, where the program names none.
    cache_dir: Text = "ANYNPU_CACHE_DIR", Text(String::new()), "unset: the command line's own folder; programs keep nothing";
    /// Most MiB that the folder of compiled forms may take.
    cache_limit: Positive = "ANYNPU_CACHE_MIB", Positive(4096), "4096";
    /// Profile by which plans are priced where the program gives none, as `anynpu probe --save` writes it.
    profile: Text = "ANYNPU_PROFILE", Text(String::new()), "unset: plans are priced by what drivers state, and by guesses";
    /// Plugins and manifests of plugins to load, parted as in PATH; ignored where a program has more rights than its user.
    driver_files: Text = "ANYNPU_DRIVER_FILES", Text(String::new()), "unset: no plugins";
    /// Folder of the models and reference outputs that the project's own tests use; not read otherwise.
    test_data: Text = "ANYNPU_TEST_DATA", Text(String::new()), "unset: such tests are skipped";
    /// Folder of chat templates with what transformers renders of them, for the project's own tests; not read otherwise.
    templates: Text = "ANYNPU_TEMPLATES", Text(String::new()), "unset: such tests are skipped";
    /// Folder of the model all-MiniLM-L6-v2, for the project's own tests; not read otherwise.
    minilm: Text = "ANYNPU_MINILM", Text(String::new()), "unset: such tests are skipped";
    /// Folder of the ONNX project's node tests, for the project's own tests; not read otherwise.
    onnx_node_tests: Text = "ANYNPU_ONNX_NODE_TESTS", Text(String::new()), "unset: such tests are skipped";
    /// Folder of llama.cpp's vocabularies with their cases, for the project's own tests; not read otherwise.
    llama_cpp_models: Text = "ANYNPU_LLAMA_CPP_MODELS", Text(String::new()), "unset: such tests are skipped";
    /// The checker of Core ML packages, for the project's own tests; not read otherwise.
    coreml_checker: Text = "ANYNPU_COREML_CHECKER", Text(String::new()), "unset: such tests are skipped";
    /// A Python with coremltools, for the project's own tests; not read otherwise.
    coreml_python: Text = "ANYNPU_COREML_PYTHON", Text(String::new()), "unset: such tests are skipped";
    /// The candle engine as a plugin (tests/engines/candle), for the project's own tests; not read otherwise.
    candle_plugin: Text = "ANYNPU_CANDLE_PLUGIN", Text(String::new()), "unset: such tests are skipped";
}

/// A number above 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Positive(pub u32);

/// A time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Milliseconds(pub u64);

/// Any text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(pub String);

impl Milliseconds {
    /// As a duration.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

/// What a variable can hold.
trait Value: Sized {
    const KIND: &'static str;

    fn parse(value: &str) -> Option<Self>;
}

impl Value for Positive {
    const KIND: &'static str = "number from 1";

    fn parse(value: &str) -> Option<Self> {
        value.parse().ok().filter(|&n| n > 0).map(Positive)
    }
}

impl Value for Option<Positive> {
    const KIND: &'static str = Positive::KIND;

    fn parse(value: &str) -> Option<Self> {
        Positive::parse(value).map(Some)
    }
}

impl Value for Milliseconds {
    const KIND: &'static str = "milliseconds from 1";

    fn parse(value: &str) -> Option<Self> {
        value.parse().ok().filter(|&n| n > 0).map(Milliseconds)
    }
}

impl Value for Text {
    const KIND: &'static str = "text";

    fn parse(value: &str) -> Option<Self> {
        Some(Text(value.to_owned()))
    }
}

impl Knobs {
    /// Reads the environment. The second value warns of each `ANYNPU_*` variable that is neither known nor among
    /// `others`, which drivers read.
    ///
    /// # Errors
    /// A known variable with a value that is not of its type.
    pub fn from_env(others: &[&str]) -> Result<(Knobs, Vec<String>), RuntimeError> {
        Knobs::read(std::env::vars_os(), others)
    }

    /// As [`Knobs::from_env`], from variables given.
    ///
    /// # Errors
    /// As [`Knobs::from_env`].
    pub fn read(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        others: &[&str],
    ) -> Result<(Knobs, Vec<String>), RuntimeError> {
        let (mut knobs, mut warnings) = (Knobs::default(), Vec::new());
        for (name, value) in variables {
            let name = name.to_string_lossy();
            let own = name.starts_with(PREFIX) && !others.contains(&&*name);
            if own && !knobs.set(&name, &value.to_string_lossy())? {
                warnings.push(format!(
                    "environment variable {} is not known and has no effect; `anynpu knobs` lists those that are",
                    name.escape_debug()
                ));
            }
        }
        warnings.sort();
        Ok((knobs, warnings))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<(Knobs, Vec<String>), RuntimeError> {
        Knobs::read(
            pairs.iter().map(|(n, v)| (n.into(), v.into())),
            &["ANYNPU_VENDOR"],
        )
    }

    #[test]
    fn known_variables_are_read_and_others_left_alone() {
        let (knobs, warnings) = read(&[
            ("ANYNPU_THREADS", "3"),
            ("ANYNPU_STEP_TIMEOUT_MS", "50"),
            ("ANYNPU_VENDOR", "a driver's"),
            ("PATH", "/bin"),
        ])
        .unwrap();
        assert_eq!(knobs.threads, Some(Positive(3)));
        assert_eq!(knobs.step_timeout.duration(), Duration::from_millis(50));
        assert_eq!(knobs.prefill_chunk, Knobs::default().prefill_chunk);
        assert!(warnings.is_empty());
    }

    #[test]
    fn unknown_variables_of_ours_are_warned_of() {
        let (_, warnings) = read(&[("ANYNPU_TREADS", "3")]).unwrap();
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("ANYNPU_TREADS"));
    }

    #[test]
    fn a_value_of_the_wrong_type_is_an_error_with_both() {
        for bad in ["0", "-1", "many", ""] {
            let e = read(&[("ANYNPU_THREADS", bad)]).unwrap_err().to_string();
            let expected = format!("ANYNPU_THREADS is '{bad}'; expected a number from 1");
            assert_eq!(e, format!("environment variable {expected}"));
        }
    }

    #[test]
    fn every_knob_is_listed_with_its_meaning() {
        assert!(!KNOBS.is_empty());
        for knob in KNOBS {
            assert!(
                knob.name.starts_with(PREFIX) && knob.meaning.ends_with('.'),
                "{knob:?}"
            );
            assert!(!knob.default.is_empty(), "{knob:?}");
        }
    }
}
