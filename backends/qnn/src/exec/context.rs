//! A context: graphs that share memory and a compiled form.

use std::ffi::{CString, c_void};
use std::sync::Arc;

use parking_lot::Mutex;

use super::executable::Port;
use super::{BinaryInfo, Device, Executable, QnnError, build, metadata};
use crate::htp::Graph;
use crate::sys::{
    CONFIG_CUSTOM, ContextConfig, HTP_CONTEXT_GROUP, HTP_CONTEXT_WEIGHT_SHARING, Handle,
    HtpContextConfig, HtpContextGroup, HtpContextValue,
};

/// How to make a context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ContextOptions {
    /// Weights of the same name and contents are held once over all graphs. Such a compiled form is for devices;
    /// the emulator does not load it.
    pub share_weights: bool,
}

/// The code of a configuration that the library does not have.
const INVALID_CONFIG: u64 = 5010;

/// Contexts that spill into one memory.
struct Group {
    /// That which has the memory; none for itself.
    first: Option<Arc<Context>>,
    /// The most that any of them spills.
    spill_bytes: u64,
}

/// A context.
#[derive(Debug)]
pub struct Context {
    device: Arc<Device>,
    handle: Handle,
    /// The context whose memory this one spills into, which must outlive it.
    _group: Option<Arc<Context>>,
    /// Graphs of one context are built and run one at a time.
    busy: Mutex<()>,
}

// SAFETY: as for the device; calls that concern one context are made one at a time.
unsafe impl Send for Context {}
// SAFETY: as for Send.
unsafe impl Sync for Context {}

impl Context {
    /// A context without graphs.
    ///
    /// # Errors
    /// The library's own.
    pub fn new(device: &Arc<Device>, options: ContextOptions) -> Result<Arc<Context>, QnnError> {
        let call = "contextCreate";
        let create = device.table().context_create;
        let create = create.ok_or(QnnError::Missing { call })?;
        let mut value = HtpContextValue { raw: [0; 4] };
        value.enabled = u8::from(options.share_weights);
        let custom = HtpContextConfig {
            option: HTP_CONTEXT_WEIGHT_SHARING,
            value,
        };
        let config = ContextConfig {
            option: CONFIG_CUSTOM,
            custom: (&raw const custom).cast(),
        };
        let configs = match options.share_weights {
            true => [&raw const config, std::ptr::null()],
            false => [std::ptr::null(); 2],
        };
        let mut handle = std::ptr::null_mut();
        // SAFETY: backend and device are alive; the list of configurations ends in null and lives during the call.
        let code = unsafe {
            create(
                device.backend(),
                device.handle(),
                configs.as_ptr(),
                &raw mut handle,
            )
        };
        match code {
            0 => Ok(Context::of(device, handle, None)),
            code => Err(device.error(call, device.soc().name.into(), code)),
        }
    }

    /// The context of a compiled form, and what is in it.
    ///
    /// # Errors
    /// The library's own; a compiled form for another chip.
    pub fn load(
        device: &Arc<Device>,
        binary: &[u8],
    ) -> Result<(Arc<Context>, BinaryInfo), QnnError> {
        let info = metadata::read(device, binary)?;
        let context = Context::load_one(device, binary, &info, None)?;
        Ok((context, info))
    }

    /// The contexts of compiled forms whose graphs run one after the other, and what is in them. They spill numbers
    /// into one memory, if they spill any and the library can do that.
    ///
    /// # Errors
    /// As of [`Context::load`].
    pub fn load_all(
        device: &Arc<Device>,
        binaries: &[&[u8]],
    ) -> Result<Vec<(Arc<Context>, BinaryInfo)>, QnnError> {
        let infos = binaries.iter().map(|binary| metadata::read(device, binary));
        let infos: Vec<BinaryInfo> = infos.collect::<Result<_, _>>()?;
        let spill_bytes = infos.iter().map(|i| i.spill_bytes).max().unwrap_or(0);
        // the first to be loaded takes the memory: the one that spills most
        let mut order: Vec<usize> = (0..binaries.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(infos[i].spill_bytes));
        let mut loaded: Vec<(usize, Arc<Context>)> = Vec::with_capacity(order.len());
        let mut grouped = binaries.len() > 1 && spill_bytes > 0;
        for i in order {
            let load = |group| Context::load_one(device, binaries[i], &infos[i], group);
            let first = loaded.first().map(|(_, first)| first.clone());
            let context = match grouped.then(|| load(Some(Group { first, spill_bytes }))) {
                None => load(None)?,
                // the emulator has no groups
                Some(Err(e)) if e.code() == Some(INVALID_CONFIG) => {
                    tracing::debug!("contexts spill into memory of their own: {e}");
                    grouped = false;
                    load(None)?
                }
                Some(loaded) => loaded?,
            };
            loaded.push((i, context));
        }
        loaded.sort_by_key(|(i, _)| *i);
        let contexts = loaded.into_iter().map(|(_, context)| context);
        Ok(contexts.zip(infos).collect())
    }

    fn load_one(
        device: &Arc<Device>,
        binary: &[u8],
        info: &BinaryInfo,
        group: Option<Group>,
    ) -> Result<Arc<Context>, QnnError> {
        if let Some(why) = info.fits(device)? {
            tracing::debug!("{why}");
        }
        let call = "contextCreateFromBinary";
        let create = device.table().context_create_from_binary;
        let create = create.ok_or(QnnError::Missing { call })?;
        let mut value = HtpContextValue { raw: [0; 4] };
        if let Some(group) = &group {
            value.group = HtpContextGroup {
                first: group
                    .first
                    .as_ref()
                    .map_or(std::ptr::null_mut(), |c| c.handle),
                spill_bytes: group.spill_bytes,
            };
        }
        let custom = HtpContextConfig {
            option: HTP_CONTEXT_GROUP,
            value,
        };
        let config = ContextConfig {
            option: CONFIG_CUSTOM,
            custom: (&raw const custom).cast(),
        };
        let configs = match group {
            Some(_) => [&raw const config, std::ptr::null()],
            None => [std::ptr::null(); 2],
        };
        let mut handle = std::ptr::null_mut();
        // SAFETY: backend, device and the group's first context are alive; the list of configurations ends in null and
        // lives during the call; the library reads the given number of bytes, and checks them.
        let code = unsafe {
            create(
                device.backend(),
                device.handle(),
                configs.as_ptr(),
                binary.as_ptr().cast(),
                binary.len() as u64,
                &raw mut handle,
                std::ptr::null_mut(),
            )
        };
        match code {
            0 => Ok(Context::of(device, handle, group.and_then(|g| g.first))),
            code => Err(device.error(call, format!("{} bytes", binary.len()), code)),
        }
    }

    fn of(device: &Arc<Device>, handle: Handle, group: Option<Arc<Context>>) -> Arc<Context> {
        Arc::new(Context {
            device: device.clone(),
            handle,
            _group: group,
            busy: Mutex::new(()),
        })
    }

    /// Compiles `graph`. After a failure the context holds half a graph and is best dropped.
    ///
    /// # Errors
    /// A graph that can't be; a node that the library refuses.
    pub fn compile(self: &Arc<Self>, graph: &Graph) -> Result<Executable, QnnError> {
        graph.check()?;
        let _busy = self.busy.lock();
        build::build(self, graph)
    }

    /// The graph called `name` of a compiled form.
    ///
    /// # Errors
    /// No such graph; the library's own.
    pub fn graph(self: &Arc<Self>, info: &BinaryInfo, name: &str) -> Result<Executable, QnnError> {
        let found = info.graphs.iter().find(|g| g.name == name);
        let found = found.ok_or_else(|| QnnError::Binary {
            what: "its list of graphs",
            found: info.names(),
            expected: format!("one with '{name}'"),
        })?;
        let call = "graphRetrieve";
        let retrieve = self.device.table().graph_retrieve;
        let retrieve = retrieve.ok_or(QnnError::Missing { call })?;
        let text = c_name(name)?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the context is alive, and the name ends in 0.
        let code = unsafe { retrieve(self.handle, text.as_ptr(), &raw mut handle) };
        if code != 0 {
            return Err(self.device.error(call, format!("'{name}'"), code));
        }
        let ports = |tensors: &[metadata::TensorInfo]| -> Result<Vec<Port>, QnnError> {
            tensors.iter().map(Port::of_info).collect()
        };
        let (inputs, outputs) = (ports(&found.inputs)?, ports(&found.outputs)?);
        Ok(Executable::new(self, handle, name, inputs, outputs))
    }

    /// The compiled form of all graphs.
    ///
    /// # Errors
    /// The library's own.
    pub fn binary(&self) -> Result<Vec<u8>, QnnError> {
        let _busy = self.busy.lock();
        let table = self.device.table();
        let missing = |call| QnnError::Missing { call };
        let (size_call, call) = ("contextGetBinarySize", "contextGetBinary");
        let size = table.context_get_binary_size.ok_or(missing(size_call))?;
        let get = table.context_get_binary.ok_or(missing(call))?;
        let mut bytes = 0u64;
        // SAFETY: the context is alive.
        let code = unsafe { size(self.handle, &raw mut bytes) };
        if code != 0 {
            return Err(self.device.error(size_call, "the context".into(), code));
        }
        let mut binary = vec![0u8; usize::try_from(bytes).unwrap_or(usize::MAX)];
        let mut written = 0u64;
        // SAFETY: the context is alive; the library writes at most the given number of bytes.
        let code = unsafe {
            get(
                self.handle,
                binary.as_mut_ptr().cast::<c_void>(),
                bytes,
                &raw mut written,
            )
        };
        if code != 0 {
            return Err(self.device.error(call, "the context".into(), code));
        }
        binary.truncate(usize::try_from(written).unwrap_or(usize::MAX));
        Ok(binary)
    }

    pub(super) fn device(&self) -> &Arc<Device> {
        &self.device
    }

    pub(super) fn handle(&self) -> Handle {
        self.handle
    }

    pub(super) fn busy(&self) -> &Mutex<()> {
        &self.busy
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if let Some(free) = self.device.table().context_free {
            // SAFETY: graphs hold the context, so none is in use; the device is alive.
            let code = unsafe { free(self.handle, std::ptr::null_mut()) };
            tracing::trace!("contextFree: {code}");
        }
    }
}

/// `name` as C has it.
pub(super) fn c_name(name: &str) -> Result<CString, QnnError> {
    CString::new(name).map_err(|_| QnnError::Name { name: name.into() })
}
