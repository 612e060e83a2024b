//! What a copy of the library is: its feature level and devices.

use std::fmt::Write;

/// What a copy of the library is. It stands in a file beside the copy, which has its name and `.txt` after it: lines of
/// a word and what it says.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `level N`: the runtime's feature level, 27 to 31 or 1000006 to 1000008.
    pub level: i64,
    /// `device NAME TYPE LEVEL [lacks=OPERATION,…] [fault=FAULT]`: its devices but for the reference one, which is
    /// always the last.
    pub devices: Vec<Device>,
}

/// A device.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// Its name, without spaces.
    pub name: String,
    /// Its type.
    pub ty: DeviceType,
    /// Its feature level.
    pub level: i64,
    /// Names of operations that it does not support.
    pub lacks: Vec<String>,
    /// What goes wrong with it.
    pub fault: Option<Fault>,
}

/// Types of devices, by the interface's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceType {
    /// Not known.
    Unknown = 0,
    /// Something else.
    Other = 1,
    /// The processor.
    Cpu = 2,
    /// A graphics processor.
    Gpu = 3,
    /// A neural processor.
    Accelerator = 4,
}

/// What goes wrong with a device.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// `compile`: it says that it supports a model, then does not compile it.
    Compile,
    /// `vanish`: it is gone when a model is run.
    Vanish,
    /// `deadline`: it does not keep deadlines.
    Deadline,
    /// `memory`: it has no resources to run a model.
    Memory,
    /// `wrong:OPERATION`: it computes this operation wrongly without a word.
    Wrong(String),
    /// `crash:OPERATION`: it ends the process when it computes this operation.
    Crash(String),
    /// `fails:FUNCTION:CODE`: this function fails with this code: `createFromDesc`, `copy`,
    /// `startComputeWithDependencies`, or `wait` for a run that it started.
    Fails(String, i32),
    /// `after:RUNS:CODE:WHAT`: it runs so often, and then fails with this code. `WHAT` is `kept` or `lost`: whether its
    /// memory can be copied from afterwards.
    After {
        /// How often it runs.
        runs: u32,
        /// The code.
        code: i32,
        /// Whether its memory is gone too.
        lost: bool,
    },
}

/// The reference device's name.
pub const REFERENCE: &str = "nnapi-reference";

impl Settings {
    /// A runtime of `level` with the reference device alone.
    pub fn new(level: i64) -> Settings {
        Settings {
            level,
            devices: Vec::new(),
        }
    }

    /// With an accelerator of the runtime's level, `double-npu`.
    pub fn with_accelerator(self) -> Settings {
        let level = self.level;
        self.with(Device::accelerator("double-npu", level))
    }

    /// With `device` too.
    pub fn with(mut self, device: Device) -> Settings {
        self.devices.push(device);
        self
    }

    /// What `text` says; `None` if it makes no sense.
    pub fn parse(text: &str) -> Option<Settings> {
        let mut settings = Settings::new(1_000_008);
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next()? {
                "level" => settings.level = words.next()?.parse().ok()?,
                "device" => {
                    let mut device = Device {
                        name: words.next()?.into(),
                        ty: DeviceType::named(words.next()?)?,
                        level: words.next()?.parse().ok()?,
                        lacks: Vec::new(),
                        fault: None,
                    };
                    for word in words {
                        match word.split_once('=')? {
                            ("lacks", list) => {
                                device.lacks = list.split(',').map(str::to_owned).collect();
                            }
                            ("fault", fault) => device.fault = Some(Fault::named(fault)?),
                            _ => return None,
                        }
                    }
                    settings.devices.push(device);
                }
                _ => return None,
            }
        }
        Some(settings)
    }

    /// The lines that say so.
    pub fn text(&self) -> String {
        let mut text = format!("level {}\n", self.level);
        for device in &self.devices {
            let Device {
                name, ty, level, ..
            } = device;
            let _ = write!(text, "device {name} {} {level}", ty.name());
            if !device.lacks.is_empty() {
                let _ = write!(text, " lacks={}", device.lacks.join(","));
            }
            if let Some(fault) = &device.fault {
                let _ = write!(text, " fault={}", fault.text());
            }
            text.push('\n');
        }
        text
    }
}

impl Device {
    /// An accelerator without faults.
    pub fn accelerator(name: &str, level: i64) -> Device {
        Device {
            name: name.into(),
            ty: DeviceType::Accelerator,
            level,
            lacks: Vec::new(),
            fault: None,
        }
    }

    /// Without support for `operations`.
    pub fn lacking(mut self, operations: &[&str]) -> Device {
        self.lacks = operations.iter().map(|o| (*o).to_owned()).collect();
        self
    }

    /// With `fault`.
    pub fn failing(mut self, fault: Fault) -> Device {
        self.fault = Some(fault);
        self
    }
}

impl DeviceType {
    const ALL: [DeviceType; 5] = [
        DeviceType::Unknown,
        DeviceType::Other,
        DeviceType::Cpu,
        DeviceType::Gpu,
        DeviceType::Accelerator,
    ];

    const fn name(self) -> &'static str {
        match self {
            DeviceType::Unknown => "unknown",
            DeviceType::Other => "other",
            DeviceType::Cpu => "cpu",
            DeviceType::Gpu => "gpu",
            DeviceType::Accelerator => "accelerator",
        }
    }

    fn named(name: &str) -> Option<DeviceType> {
        DeviceType::ALL.into_iter().find(|t| t.name() == name)
    }
}

impl Fault {
    fn named(text: &str) -> Option<Fault> {
        Some(match text.split_once(':') {
            None => match text {
                "compile" => Fault::Compile,
                "vanish" => Fault::Vanish,
                "deadline" => Fault::Deadline,
                "memory" => Fault::Memory,
                _ => return None,
            },
            Some(("wrong", operation)) => Fault::Wrong(operation.into()),
            Some(("crash", operation)) => Fault::Crash(operation.into()),
            Some(("fails", rest)) => {
                let (function, code) = rest.split_once(':')?;
                Fault::Fails(function.into(), code.parse().ok()?)
            }
            Some(("after", rest)) => {
                let (runs, rest) = rest.split_once(':')?;
                let (code, memory) = rest.split_once(':')?;
                Fault::After {
                    runs: runs.parse().ok()?,
                    code: code.parse().ok()?,
                    lost: match memory {
                        "lost" => true,
                        "kept" => false,
                        _ => return None,
                    },
                }
            }
            Some(_) => return None,
        })
    }

    fn text(&self) -> String {
        match self {
            Fault::Compile => "compile".into(),
            Fault::Vanish => "vanish".into(),
            Fault::Deadline => "deadline".into(),
            Fault::Memory => "memory".into(),
            Fault::Wrong(operation) => format!("wrong:{operation}"),
            Fault::Crash(operation) => format!("crash:{operation}"),
            Fault::Fails(function, code) => format!("fails:{function}:{code}"),
            Fault::After { runs, code, lost } => {
                let memory = if *lost { "lost" } else { "kept" };
                format!("after:{runs}:{code}:{memory}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_they_were_written() {
        let device = Device::accelerator("npu", 30).lacking(&["ADD", "MUL"]);
        let settings = Settings::new(31)
            .with(device.failing(Fault::Wrong("SOFTMAX".into())))
            .with(Device::accelerator("old", 31).failing(Fault::After {
                runs: 3,
                code: 14,
                lost: true,
            }))
            .with(Device::accelerator("gpu", 31).failing(Fault::Fails("copy".into(), 14)))
            .with_accelerator();
        assert_eq!(Settings::parse(&settings.text()), Some(settings));
        assert_eq!(Settings::parse("levels 3"), None);
        assert_eq!(Settings::parse("device x npu 30"), None);
    }
}
