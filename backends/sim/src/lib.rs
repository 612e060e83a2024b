//! A simulated accelerator, always labelled simulated.
//!
//! A [`Description`], read from TOML, says which ops, types and shapes a device takes, how much memory it
//! has, what dispatching and copying cost, how fast it is and how it fails. [`SimDriver`] opens a
//! [`SimDevice`] of it that computes real numbers on another device, rounded as the description's type
//! says, and accounts for time on a virtual clock: nothing sleeps, and no figure of it is a measurement.
//! What a description does not list is refused with a reason. Rules of real accelerators that their tables
//! do not tell are a [`Catalogue`] of quirks.
//!
//! Of the workspace it may depend on `anynpu-ir` and `anynpu-hal`; the device that computes is given by
//! value. The three main types: [`Description`], [`SimDriver`], [`SimDevice`].

mod blob;
mod clock;
mod description;
mod device;
mod driver;
mod error;
mod exec;
mod figure;
mod memory;
mod quirks;
mod shipped;
mod support;

pub use description::Description;
pub use device::SimDevice;
pub use driver::SimDriver;
pub use error::SimError;
pub use figure::Figure;
pub use quirks::{Catalogue, Quirk};
pub use shipped::{SHIPPED, Shipped};
