//! What is compiled for: a system, which of its processors, and in which precision.

use std::fmt;
use std::str::FromStr;

use crate::CoreMlError;

/// An operating system of Apple's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Platform {
    /// iPhones and iPads.
    Ios,
    /// Macs.
    Macos,
}

/// The oldest system that a package is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeploymentTarget {
    platform: Platform,
    version: u32,
    specification: i32,
}

/// Systems by the specification that came with them: iOS, macOS, the version of the specification.
const SYSTEMS: [(u32, u32, i32); 5] = [
    (15, 12, 6),
    (16, 13, 7),
    (17, 14, 8),
    (18, 15, 9),
    (26, 26, 10),
];

impl DeploymentTarget {
    /// Every target.
    pub fn all() -> impl Iterator<Item = DeploymentTarget> {
        [Platform::Ios, Platform::Macos]
            .into_iter()
            .flat_map(|platform| {
                SYSTEMS.map(|(ios, macos, specification)| DeploymentTarget {
                    platform,
                    version: match platform {
                        Platform::Ios => ios,
                        Platform::Macos => macos,
                    },
                    specification,
                })
            })
    }

    /// The names of all, for messages.
    pub fn names() -> String {
        let names: Vec<String> = DeploymentTarget::all().map(|t| t.to_string()).collect();
        names.join(", ")
    }

    /// The system.
    pub fn platform(self) -> Platform {
        self.platform
    }

    /// The specification after which none had an operation or type that is written here.
    pub const LAST_WITH_NEWS: i32 = 9;

    /// The major version of the system.
    pub fn version(self) -> u32 {
        self.version
    }

    /// Version of the model specification, 6 to 10.
    pub fn specification(self) -> i32 {
        self.specification
    }

    /// The set of operations that programs are written in, `CoreML5` to `CoreML9`.
    pub fn opset(self) -> &'static str {
        match self.specification {
            6 => "CoreML5",
            7 => "CoreML6",
            8 => "CoreML7",
            9 => "CoreML8",
            _ => "CoreML9",
        }
    }

    /// Whether it has numbers of 16 bits as inputs and outputs, and matrices that are compressed.
    pub fn has_ios16(self) -> bool {
        self.specification >= 7
    }

    /// Whether it has what came with iOS 17 and macOS 14.
    pub fn has_ios17(self) -> bool {
        self.specification >= 8
    }

    /// Whether it has states, attention, matrices in blocks, and several functions.
    pub fn has_ios18(self) -> bool {
        self.specification >= 9
    }

    /// An error unless it has what came with iOS 18.
    pub(crate) fn need_ios18(self, what: impl Into<String>) -> Result<(), CoreMlError> {
        match self.has_ios18() {
            true => Ok(()),
            false => Err(CoreMlError::Target {
                what: what.into(),
                needs: "iOS18 or macOS15",
                target: self.to_string(),
            }),
        }
    }
}

impl fmt::Display for DeploymentTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.platform {
            Platform::Ios => "iOS",
            Platform::Macos => "macOS",
        };
        write!(f, "{name}{}", self.version)
    }
}

impl FromStr for DeploymentTarget {
    type Err = CoreMlError;

    fn from_str(s: &str) -> Result<Self, CoreMlError> {
        DeploymentTarget::all()
            .find(|t| t.to_string().eq_ignore_ascii_case(s))
            .ok_or_else(|| CoreMlError::Word {
                what: "deployment target",
                found: s.to_owned(),
                expected: format!("one of {}", DeploymentTarget::names()),
            })
    }
}

/// Which processors a package is written for. It runs on all of them, but not as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ComputeUnits {
    /// Whatever Core ML chooses: the form for graphics processors.
    #[default]
    All,
    /// The Neural Engine: a form of its own.
    NeuralEngine,
    /// Graphics processors.
    Gpu,
    /// The CPU.
    Cpu,
}

/// Gives an enum of plain words its list and its spelling in options.
macro_rules! words {
    ($enum:ident, $what:literal { $($variant:ident: $word:literal,)+ }) => {
        impl $enum {
            /// Every one.
            pub const ALL: &[$enum] = &[$($enum::$variant),+];

            /// Its name in options.
            pub const fn name(self) -> &'static str {
                match self {
                    $($enum::$variant => $word),+
                }
            }
        }

        impl std::fmt::Display for $enum {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl std::str::FromStr for $enum {
            type Err = $crate::CoreMlError;

            fn from_str(s: &str) -> Result<Self, $crate::CoreMlError> {
                let found = $enum::ALL.iter().copied().find(|x| x.name() == s);
                found.ok_or_else(|| $crate::CoreMlError::Word {
                    what: $what,
                    found: s.to_owned(),
                    expected: [$($word),+].join(", "),
                })
            }
        }
    };
}

pub(crate) use words;

words!(ComputeUnits, "compute unit" {
    All: "all",
    NeuralEngine: "ane",
    Gpu: "gpu",
    Cpu: "cpu",
});

/// The floating point that a program computes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 16 bits, as graphics processors and the Neural Engine are fast in.
    #[default]
    F16,
    /// 32 bits.
    F32,
}

words!(Precision, "precision" {
    F16: "f16",
    F32: "f32",
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_named_and_carry_their_specification() {
        for (name, specification, opset) in [
            ("iOS15", 6, "CoreML5"),
            ("iOS16", 7, "CoreML6"),
            ("iOS17", 8, "CoreML7"),
            ("iOS18", 9, "CoreML8"),
            ("iOS26", 10, "CoreML9"),
            ("macOS12", 6, "CoreML5"),
            ("macOS15", 9, "CoreML8"),
            ("macOS26", 10, "CoreML9"),
        ] {
            let target: DeploymentTarget = name.parse().unwrap();
            assert_eq!(target.to_string(), name);
            assert_eq!(target.specification(), specification);
            assert_eq!(target.opset(), opset);
        }
        assert_eq!(DeploymentTarget::all().count(), 10);
        for name in ["iOS14", "iOS19", "ios", "", "macOS11"] {
            let e = name.parse::<DeploymentTarget>().unwrap_err().to_string();
            assert!(e.contains("iOS15, iOS16") && e.contains("macOS26"), "{e}");
        }
    }

    #[test]
    fn units_and_precisions_are_named() {
        for &units in ComputeUnits::ALL {
            assert_eq!(units.name().parse::<ComputeUnits>().unwrap(), units);
        }
        for &precision in Precision::ALL {
            assert_eq!(precision.name().parse::<Precision>().unwrap(), precision);
        }
        assert!("npu".parse::<ComputeUnits>().is_err());
    }
}
