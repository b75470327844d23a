//! The smallest PNG writer there is: pixels stored, not compressed.

use kernels::decode::Pixels;

/// Bytes in a stored block of deflate at most.
const BLOCK: usize = 65_535;

/// The picture as a PNG file.
pub(super) fn encode(p: &Pixels) -> Vec<u8> {
    let stride = 3 * p.width as usize;
    let mut raw = Vec::with_capacity(p.rgb.len() + p.height as usize);
    for row in p.rgb.chunks_exact(stride) {
        // Filter 0: bytes as they are.
        raw.push(0);
        raw.extend_from_slice(row);
    }
    let mut data = vec![0x78, 0x01];
    let blocks = raw.len().div_ceil(BLOCK);
    for (i, block) in raw.chunks(BLOCK).enumerate() {
        data.push(u8::from(i + 1 == blocks));
        data.extend_from_slice(&(block.len() as u16).to_le_bytes());
        data.extend_from_slice(&(!(block.len() as u16)).to_le_bytes());
        data.extend_from_slice(block);
    }
    data.extend_from_slice(&adler32(&raw).to_be_bytes());
    with_data(p.width, p.height, &data)
}

/// A PNG file that says it is so large, around any data.
pub(super) fn with_data(width: u32, height: u32, data: &[u8]) -> Vec<u8> {
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut header = Vec::with_capacity(13);
    header.extend_from_slice(&width.to_be_bytes());
    header.extend_from_slice(&height.to_be_bytes());
    // 8 bits, RGB, the only compression, the only set of filters, not interlaced.
    header.extend_from_slice(&[8, 2, 0, 0, 0]);
    chunk(&mut file, b"IHDR", &header);
    chunk(&mut file, b"IDAT", data);
    chunk(&mut file, b"IEND", &[]);
    file
}

fn chunk(file: &mut Vec<u8>, name: &[u8; 4], data: &[u8]) {
    file.extend_from_slice(&(data.len() as u32).to_be_bytes());
    let start = file.len();
    file.extend_from_slice(name);
    file.extend_from_slice(data);
    let sum = crc32fast::hash(&file[start..]);
    file.extend_from_slice(&sum.to_be_bytes());
}

fn adler32(bytes: &[u8]) -> u32 {
    let (mut a, mut b) = (1u32, 0u32);
    // 5,552 sums fit 32 bits before they must be reduced.
    for part in bytes.chunks(5_552) {
        for &byte in part {
            a += u32::from(byte);
            b += a;
        }
        (a, b) = (a % 65_521, b % 65_521);
    }
    b << 16 | a
}
