//! Arrays as numpy reads them: an archive of `.npy` files without compression.

use std::io::{self, Write};
use std::path::Path;

use anynpu_cpu::reference::Tensor;
use anynpu_ir::DType;
use flate2::Crc;

/// Writes named arrays.
pub fn write(path: &Path, arrays: &[(String, Tensor)]) -> io::Result<()> {
    let mut file = io::BufWriter::new(std::fs::File::create(path)?);
    let (mut directory, mut at) = (Vec::new(), 0u32);
    for (name, tensor) in arrays {
        let name = format!("{name}.npy");
        let body = npy(tensor);
        let mut crc = Crc::new();
        crc.update(&body);
        let mut entry = Vec::new();
        // version 2.0, no flags, stored, no time
        entry.extend([20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0]);
        entry.extend(crc.sum().to_le_bytes());
        entry.extend((body.len() as u32).to_le_bytes());
        entry.extend((body.len() as u32).to_le_bytes());
        entry.extend((name.len() as u16).to_le_bytes());
        entry.extend([0, 0]);
        file.write_all(b"PK\x03\x04")?;
        file.write_all(&entry)?;
        file.write_all(name.as_bytes())?;
        file.write_all(&body)?;
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&entry);
        directory.extend([0; 10]);
        directory.extend(at.to_le_bytes());
        directory.extend(name.as_bytes());
        at += 4 + entry.len() as u32 + name.len() as u32 + body.len() as u32;
    }
    file.write_all(&directory)?;
    let count = (arrays.len() as u16).to_le_bytes();
    file.write_all(b"PK\x05\x06\x00\x00\x00\x00")?;
    file.write_all(&count)?;
    file.write_all(&count)?;
    file.write_all(&(directory.len() as u32).to_le_bytes())?;
    file.write_all(&at.to_le_bytes())?;
    file.write_all(&[0, 0])?;
    file.flush()
}

fn npy(tensor: &Tensor) -> Vec<u8> {
    let ty = match tensor.dtype() {
        DType::F32 => "<f4",
        DType::F16 => "<f2",
        DType::I32 => "<i4",
        DType::Bool => "|b1",
        other => panic!("arrays of {other}"),
    };
    let dims: Vec<String> = tensor.shape().iter().map(|n| format!("{n},")).collect();
    let mut header = format!(
        "{{'descr': '{ty}', 'fortran_order': False, 'shape': ({}), }}",
        dims.join(" ")
    );
    while !(10 + header.len() + 1).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let mut body = b"\x93NUMPY\x01\x00".to_vec();
    body.extend((header.len() as u16).to_le_bytes());
    body.extend(header.as_bytes());
    body.extend(tensor.to_bytes());
    body
}
