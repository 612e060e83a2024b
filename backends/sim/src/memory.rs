//! What a device's memory holds.

use std::sync::Arc;

use anynpu_hal::HalError;
use parking_lot::Mutex;

/// The memory of one device: a limit and what is taken of it.
#[derive(Debug)]
pub(crate) struct Ledger {
    device: String,
    limit: Option<u64>,
    taken: Mutex<u64>,
}

/// Memory taken, given back when dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    ledger: Arc<Ledger>,
    bytes: u64,
}

impl Ledger {
    pub fn new(device: &str, limit: Option<u64>) -> Arc<Self> {
        Arc::new(Ledger {
            device: device.to_owned(),
            limit,
            taken: Mutex::new(0),
        })
    }

    /// Takes `bytes` for `what`.
    ///
    /// # Errors
    /// [`HalError::OutOfMemory`] past the limit.
    pub fn take(self: &Arc<Self>, bytes: u64, what: &str) -> Result<Charge, HalError> {
        let mut taken = self.taken.lock();
        let after = taken.checked_add(bytes);
        match after.filter(|&after| self.limit.is_none_or(|limit| after <= limit)) {
            Some(after) => {
                *taken = after;
                Ok(Charge {
                    ledger: self.clone(),
                    bytes,
                })
            }
            None => Err(HalError::OutOfMemory {
                device: self.device.clone(),
                bytes,
                what: format!(
                    "{what}: {} of its {} bytes are taken",
                    *taken,
                    self.limit.unwrap_or(u64::MAX)
                ),
            }),
        }
    }
}

impl Charge {
    /// The memory it was taken from.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut taken = self.ledger.taken.lock();
        *taken = taken.saturating_sub(self.bytes);
    }
}
