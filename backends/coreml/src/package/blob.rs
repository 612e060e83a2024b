//! The file of weights: MILBlob version 2.
//!
//! Little endian. A header of 64 bytes (count, version), then blobs, each at a multiple of 64: 64 bytes about it (mark,
//! type, bytes, where its data is, unused bits of the last byte) and its data. Programs name a blob by where the 64 bytes
//! about it begin. After apple/coremltools, mlmodel/src/MILBlob/Blob/{StorageFormat,BlobDataType}.hpp.

use std::collections::BTreeMap;
use std::io::{self, Seek, SeekFrom, Write};

use super::DataType;

/// Bytes of the header, and of what is said about a blob; all begin at multiples of it.
const ALIGN: u64 = 64;
/// What blobs begin with.
const MARK: u32 = 0xDEAD_BEEF;
/// The format's version.
const VERSION: u32 = 2;

/// Writes a file of weights from front to back.
#[derive(Debug)]
pub struct BlobWriter<W> {
    file: W,
    count: u32,
    end: u64,
    /// Where blobs that may be asked for again are.
    known: BTreeMap<String, u64>,
}

impl DataType {
    /// The number of the type in a file of weights, if it may stand there.
    fn in_file(self) -> Option<u32> {
        Some(match self {
            DataType::F16 => 1,
            DataType::F32 => 2,
            DataType::U8 => 3,
            DataType::I8 => 4,
            DataType::I16 => 6,
            DataType::U16 => 7,
            DataType::I4 => 8,
            DataType::U1 => 9,
            DataType::U2 => 10,
            DataType::U4 => 11,
            DataType::U3 => 12,
            DataType::U6 => 13,
            DataType::I32 => 14,
            DataType::U32 => 15,
            DataType::Bool | DataType::String => return None,
        })
    }
}

impl<W: Write + Seek> BlobWriter<W> {
    /// Begins the file.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(mut file: W) -> io::Result<Self> {
        file.write_all(&[0; ALIGN as usize])?;
        Ok(BlobWriter {
            file,
            count: 0,
            end: ALIGN,
            known: BTreeMap::new(),
        })
    }

    /// Where the blob called `name` is.
    pub fn find(&self, name: &str) -> Option<u64> {
        self.known.get(name).copied()
    }

    /// Appends `elements` numbers packed in `bytes`, and tells where they are. They are found by `name` from then on.
    ///
    /// # Errors
    /// What the system says; bytes that are not those of so many elements of this type, or a type that files have not.
    pub fn append(
        &mut self,
        name: &str,
        dtype: DataType,
        elements: u64,
        bytes: &[u8],
    ) -> io::Result<u64> {
        let bits = elements.checked_mul(dtype.bits().into());
        let (Some(number), Some(bits)) = (dtype.in_file(), bits) else {
            return Err(io::Error::other(format!(
                "{elements} of {dtype:?} in a file of weights"
            )));
        };
        if bytes.len() as u64 != bits.div_ceil(8) {
            return Err(io::Error::other(format!(
                "{} bytes for {elements} elements of {dtype:?}, expected {}",
                bytes.len(),
                bits.div_ceil(8)
            )));
        }
        let at = self.end;
        let mut about = [0u8; ALIGN as usize];
        about[..4].copy_from_slice(&MARK.to_le_bytes());
        about[4..8].copy_from_slice(&number.to_le_bytes());
        about[8..16].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
        about[16..24].copy_from_slice(&(at + ALIGN).to_le_bytes());
        let unused = bits.div_ceil(8) * 8 - bits;
        about[24..32].copy_from_slice(&unused.to_le_bytes());
        self.file.write_all(&about)?;
        self.file.write_all(bytes)?;
        let data_end = at + ALIGN + bytes.len() as u64;
        self.end = data_end.next_multiple_of(ALIGN);
        self.file
            .write_all(&[0; ALIGN as usize][..(self.end - data_end) as usize])?;
        self.count += 1;
        self.known.insert(name.to_owned(), at);
        Ok(at)
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.end
    }

    /// Writes the header and gives the file back.
    ///
    /// # Errors
    /// What the system says.
    pub fn finish(mut self) -> io::Result<W> {
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&self.count.to_le_bytes())?;
        self.file.write_all(&VERSION.to_le_bytes())?;
        self.file.flush()?;
        Ok(self.file)
    }
}

/// Packs numbers of `bits` bits, the first in the lowest bits of the first byte.
///
/// Numbers of 3 and 6 bits cross bytes, as those of 1, 2 and 4 never do. Bits above are cut off.
pub fn pack(numbers: &[u8], bits: u32) -> Vec<u8> {
    let mask = (1u32 << bits) - 1;
    let mut bytes = Vec::with_capacity((numbers.len() * bits as usize).div_ceil(8));
    let (mut held, mut count) = (0u32, 0);
    for &number in numbers {
        held |= (u32::from(number) & mask) << count;
        count += bits;
        while count >= 8 {
            bytes.push(held as u8);
            held >>= 8;
            count -= 8;
        }
    }
    if count > 0 {
        bytes.push(held as u8);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    fn long(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn a_file_has_the_header_and_each_blob_at_a_multiple_of_64() {
        let mut w = BlobWriter::new(Cursor::new(Vec::new())).unwrap();
        let numbers: Vec<u8> = [1.0f32, -2.0]
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect();
        assert_eq!(w.append("a", DataType::F32, 2, &numbers).unwrap(), 64);
        // 1, 2, -1, -8, 5 in 4 bits
        let packed = pack(&[1, 2, 0xff, 0xf8, 5], 4);
        assert_eq!(packed, [0x21, 0x8f, 0x05]);
        assert_eq!(w.append("b", DataType::I4, 5, &packed).unwrap(), 192);
        assert_eq!(w.find("a"), Some(64));
        assert_eq!(w.find("b"), Some(192));
        assert_eq!(w.find("c"), None);
        assert_eq!(w.bytes(), 320);
        let file = w.finish().unwrap().into_inner();
        assert_eq!((file.len(), word(&file, 0), word(&file, 4)), (320, 2, 2));
        for (at, dtype, bytes, unused) in [(64, 2, 8, 0), (192, 8, 3, 4)] {
            assert_eq!(word(&file, at), 0xDEAD_BEEF);
            assert_eq!(word(&file, at + 4), dtype);
            assert_eq!(long(&file, at + 8), bytes);
            assert_eq!(long(&file, at + 16), at as u64 + 64);
            assert_eq!(long(&file, at + 24), unused);
            assert!(file[at + 32..at + 64].iter().all(|b| *b == 0));
        }
        assert_eq!(file[128..136], numbers);
        assert_eq!(file[256..259], packed);
    }

    #[test]
    fn bytes_of_another_size_are_refused() {
        let mut w = BlobWriter::new(Cursor::new(Vec::new())).unwrap();
        for (dtype, elements, bytes) in [
            (DataType::F16, 2, 3),
            (DataType::I4, 3, 1),
            (DataType::Bool, 1, 1),
            (DataType::F32, u64::MAX, 4),
        ] {
            assert!(w.append("x", dtype, elements, &vec![0; bytes]).is_err());
        }
    }

    #[test]
    fn numbers_of_few_bits_stand_from_the_lowest_bits_on() {
        assert_eq!(pack(&[1, 0, 1, 1, 0, 0, 0, 0, 1], 1), [0b1101, 1]);
        assert_eq!(pack(&[3, 0, 1, 2, 1], 2), [0b1001_0011, 1]);
        assert_eq!(pack(&[7, 1, 5], 3), [0b0100_1111, 1]);
        assert_eq!(
            pack(&[63, 1, 2, 3], 6),
            [0b0111_1111, 0b0010_0000, 0b0000_1100]
        );
        assert_eq!(pack(&[9, 250], 8), [9, 250]);
    }
}
