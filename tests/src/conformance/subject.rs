//! The device under test.

use std::fmt;
use std::sync::Arc;

use anynpu_hal::{Device, Driver, ExposedDevice, HalError, OpenOptions};
use parking_lot::Mutex;

type Opener = Box<dyn Fn() -> Result<Arc<dyn Device>, HalError> + Send + Sync>;

/// A device under test and how to open it again.
pub struct Subject {
    open: Option<Opener>,
    current: Mutex<Option<Arc<dyn Device>>>,
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject")
            .field("current", &self.current)
            .finish_non_exhaustive()
    }
}

impl Subject {
    /// A device that `open` opens, each time anew.
    pub fn new(
        open: impl Fn() -> Result<Arc<dyn Device>, HalError> + Send + Sync + 'static,
    ) -> Self {
        Subject {
            open: Some(Box::new(open)),
            current: Mutex::new(None),
        }
    }

    /// The device `exposed` of `driver`.
    pub fn of_driver(
        driver: Arc<dyn Driver>,
        exposed: ExposedDevice,
        options: OpenOptions,
    ) -> Self {
        Subject::new(move || driver.open(&exposed, &options))
    }

    /// An open device. Cases that open it again are skipped, and after a hang it is used as it is.
    pub fn of_device(device: Arc<dyn Device>) -> Self {
        Subject {
            open: None,
            current: Mutex::new(Some(device)),
        }
    }

    /// The device, opened if it is not.
    ///
    /// # Errors
    /// What opening says.
    pub fn device(&self) -> Result<Arc<dyn Device>, HalError> {
        let mut current = self.current.lock();
        match (&*current, &self.open) {
            (Some(device), _) => Ok(device.clone()),
            (None, Some(open)) => Ok(current.insert(open()?).clone()),
            (None, None) => Err(HalError::DeviceLost {
                device: "device under test".into(),
                why: "it was given up and can't be opened again".into(),
            }),
        }
    }

    /// Another open device of the same kind; `None` if it can't be opened from here.
    pub fn another(&self) -> Option<Result<Arc<dyn Device>, HalError>> {
        self.open.as_ref().map(|open| open())
    }

    /// Gives the device up, so that the next use opens another. A device that can't be opened again is kept.
    pub(crate) fn forget(&self) {
        if self.open.is_some() {
            let device = self.current.lock().take();
            if let Some(device) = device {
                device.give_up();
            }
        }
    }
}
