//! Sessions in files: the tokens and the KV cache, so that a text need not be read again.
//!
//! All numbers are little endian. The file, of version 1:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `ANYNPUKV` |
//! | 4 | version |
//! | 4 | element type of the cache: 0 f32, 1 f16, 2 q8_0 |
//! | 32 | the model's fingerprint |
//! | 4 | number of tokens `n` |
//! | 4 | number of states |
//! | 4·n | the tokens |
//! | | for each state, as the graph orders them: rows `0..n`, q8_0 ones in blocks along a head |
//! | 32 | BLAKE3 of all before |
//!
//! The fingerprint is BLAKE3 of the graph's text and of the first and last 4096 bytes of every
//! weight. A file is checked whole before anything of it is taken over: its size, which the header
//! determines, its sum, its fingerprint and its tokens.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anynpu_graphs::Model;
use anynpu_ir::DType;
use thiserror::Error;

use crate::{RuntimeError, Session, TokenId};

const MAGIC: &[u8; 8] = b"ANYNPUKV";
/// The version written; the only one read.
pub const SNAPSHOT_VERSION: u32 = 1;
const HEADER: usize = 56;
const SUM: usize = 32;
/// Bytes at each end of a weight that the fingerprint covers.
const SAMPLE: usize = 4096;

/// A file that a session can't be restored from, or can't be saved to.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The file can't be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file doesn't fit the session.
    #[error("{}: {what} is {found}; expected {expected}", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What doesn't fit.
        what: &'static str,
        /// What it is.
        found: String,
        /// What would fit.
        expected: String,
    },
}

impl Session {
    /// Saves the tokens and the KV cache to `path`, which is replaced once the file is whole.
    ///
    /// # Errors
    /// [`RuntimeError::Snapshot`] if the file can't be written, a device whose memory can't be read.
    pub fn save(&mut self, path: impl AsRef<Path>) -> Result<(), RuntimeError> {
        let path = path.as_ref();
        self.wake(None)?;
        let failed = |source| SnapshotError::File {
            path: path.to_owned(),
            source,
        };
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
        let file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")));
        let file = file.map_err(failed)?;
        let mut out = Summed::new(BufWriter::new(file));
        let states = self.runner.executor().state_count();
        let mut header = Vec::with_capacity(HEADER);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&SNAPSHOT_VERSION.to_le_bytes());
        header.extend_from_slice(&dtype_code(self.model.kv_dtype()).to_le_bytes());
        header.extend_from_slice(&fingerprint(self.model.open().model()));
        header.extend_from_slice(&(self.tokens.len() as u32).to_le_bytes());
        header.extend_from_slice(&(states as u32).to_le_bytes());
        out.write_all(&header).map_err(failed)?;
        for token in &self.tokens {
            out.write_all(&token.to_le_bytes()).map_err(failed)?;
        }
        for state in 0..states {
            let bytes = self.state_bytes(state);
            let rows = self.runner.executor().read_state(state, bytes)?;
            out.write_all(&rows).map_err(failed)?;
        }
        let sum = out.sum.finalize();
        let mut inner = out.inner;
        inner.write_all(sum.as_bytes()).map_err(failed)?;
        let file = inner.into_inner().map_err(|e| failed(e.into_error()))?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(path).map_err(|e| failed(e.error))?;
        Ok(())
    }

    /// Replaces the session's tokens and KV cache by those of `path`. [`Session::logits`] are those
    /// after the next token put in.
    ///
    /// # Errors
    /// [`RuntimeError::Snapshot`] for a file that can't be read, is no such file, is damaged, of
    /// another version or model, or holds more tokens than the context: the session is as it was.
    /// A device whose memory can't be written: the session is then empty.
    pub fn restore(&mut self, path: impl AsRef<Path>) -> Result<(), RuntimeError> {
        let path = path.as_ref();
        let failed = |source| SnapshotError::File {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        let mut input = BufReader::new(file);
        let tokens = self.check_snapshot(path, size, &mut input)?;
        self.wake(None)?;
        // the file may have changed since it was summed; the bytes are used only if they still sum up
        let mut input = File::open(path).map(BufReader::new).map_err(failed)?;
        let mut sum = blake3::Hasher::new();
        let mut head = vec![0; HEADER + 4 * tokens.len()];
        input.read_exact(&mut head).map_err(failed)?;
        sum.update(&head);
        self.truncate(0);
        for state in 0..self.runner.executor().state_count() {
            let bytes = self.row_bytes(state) * tokens.len();
            let mut result = Ok(());
            self.runner
                .executor_mut()
                .write_state(state, bytes, |memory| {
                    result = input.read_exact(memory);
                    sum.update(memory);
                })?;
            result.map_err(failed)?;
        }
        let mut expected = [0; SUM];
        input.read_exact(&mut expected).map_err(failed)?;
        if sum.finalize() != expected {
            return Err(self.unfit(path, "its sum", "another than before", "a file at rest"));
        }
        self.tokens.extend_from_slice(&tokens);
        Ok(())
    }

    /// Checks a whole file and gives its tokens.
    fn check_snapshot(
        &self,
        path: &Path,
        size: u64,
        input: &mut impl Read,
    ) -> Result<Vec<TokenId>, RuntimeError> {
        let failed = |source| SnapshotError::File {
            path: path.to_owned(),
            source,
        };
        let unfit = |what, found: String, expected: String| self.unfit(path, what, found, expected);
        if size < (HEADER + SUM) as u64 {
            let expected = format!("at least {}", HEADER + SUM);
            return Err(unfit("its size", format!("{size} bytes"), expected));
        }
        let mut header = [0; HEADER];
        input.read_exact(&mut header).map_err(failed)?;
        if header[..8] != MAGIC[..] {
            let found = format!("{:02x?}", &header[..8]);
            return Err(unfit("its start", found, "'ANYNPUKV'".into()));
        }
        let number = |at: usize| {
            let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
            u32::from_le_bytes(bytes)
        };
        if number(8) != SNAPSHOT_VERSION {
            let found = number(8).to_string();
            return Err(unfit("its version", found, SNAPSHOT_VERSION.to_string()));
        }
        let dtype = self.model.kv_dtype();
        if number(12) != dtype_code(dtype) {
            let found = match number(12) {
                0 => "f32".into(),
                1 => "f16".into(),
                2 => "q8_0".into(),
                other => format!("number {other}"),
            };
            let expected = format!("{dtype}, as the model was loaded");
            return Err(unfit("the cache's type", found, expected));
        }
        if header[16..48] != fingerprint(self.model.open().model()) {
            let found = "another's".to_owned();
            let expected = format!("that of '{}'", self.model.info().name);
            return Err(unfit("the model's fingerprint", found, expected));
        }
        let (count, states) = (number(48), number(52));
        if count > self.context() {
            let expected = format!("at most {}, the context", self.context());
            return Err(unfit("the number of tokens", count.to_string(), expected));
        }
        if states as usize != self.runner.executor().state_count() {
            let expected = self.runner.executor().state_count().to_string();
            return Err(unfit("the number of states", states.to_string(), expected));
        }
        // bounded by the context's own memory
        let count = count as usize;
        let body = (0..states as usize).map(|s| (self.row_bytes(s) * count) as u64);
        let whole = (HEADER + 4 * count + SUM) as u64 + body.sum::<u64>();
        if size != whole {
            let found = format!("{size} bytes");
            return Err(unfit("its size", found, format!("{whole} bytes")));
        }
        let mut sum = blake3::Hasher::new();
        sum.update(&header);
        let mut tokens = vec![0; 4 * count];
        input.read_exact(&mut tokens).map_err(failed)?;
        sum.update(&tokens);
        let mut rest = whole - (HEADER + 4 * count + SUM) as u64;
        let mut buffer = vec![0; 1 << 16];
        while rest > 0 {
            let part = &mut buffer[..rest.min(1 << 16) as usize];
            input.read_exact(part).map_err(failed)?;
            sum.update(part);
            rest -= part.len() as u64;
        }
        let mut expected = [0; SUM];
        input.read_exact(&mut expected).map_err(failed)?;
        if sum.finalize() != expected {
            let found = "damaged: its sum differs".to_owned();
            return Err(unfit("the file", found, "a whole file".into()));
        }
        let tokens = tokens.chunks_exact(4);
        let tokens: Vec<TokenId> = tokens
            .map(|b| TokenId::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        self.check_tokens(&tokens)?;
        Ok(tokens)
    }

    fn unfit(
        &self,
        path: &Path,
        what: &'static str,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> RuntimeError {
        RuntimeError::Snapshot(SnapshotError::Unfit {
            path: path.to_owned(),
            what,
            found: found.into(),
            expected: expected.into(),
        })
    }

    /// Bytes of a token's row of state `index`.
    fn row_bytes(&self, index: usize) -> usize {
        self.runner.executor().state_row_bytes(index)
    }

    /// Bytes of the rows of state `index` that hold tokens.
    fn state_bytes(&self, index: usize) -> usize {
        self.row_bytes(index) * self.tokens.len()
    }
}

fn dtype_code(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => 0,
        DType::Q8_0 => 2,
        _ => 1,
    }
}

/// What tells a model from others: its graph, and a sample of every weight.
fn fingerprint(model: &Model) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(model.graph().to_string().as_bytes());
    for weight in model.graph().weights() {
        if let Some((len, first, last)) = model.data().sample(&weight.name, SAMPLE) {
            hasher.update(&len.to_le_bytes());
            hasher.update(&first);
            hasher.update(&last);
        }
    }
    *hasher.finalize().as_bytes()
}

/// A writer that sums up what goes through it.
struct Summed<W> {
    inner: W,
    sum: blake3::Hasher,
}

impl<W: Write> Summed<W> {
    fn new(inner: W) -> Self {
        Summed {
            inner,
            sum: blake3::Hasher::new(),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum.update(bytes);
        self.inner.write_all(bytes)
    }
}
