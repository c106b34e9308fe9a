//! MessagePack, as much of it as an input needs.

pub const ARRAY_32: u8 = 0xdd;

pub fn nothing(to: &mut Vec<u8>) {
    to.push(0xc0);
}

pub fn truth(to: &mut Vec<u8>, value: bool) {
    to.push(if value { 0xc3 } else { 0xc2 });
}

pub fn integer(to: &mut Vec<u8>, value: i64) {
    match value {
        0..=0x7f => to.push(value as u8),
        0x80..=0xff => to.extend([0xcc, value as u8]),
        0x100..=0xffff => {
            to.push(0xcd);
            to.extend((value as u16).to_be_bytes());
        }
        0x1_0000..=0xffff_ffff => {
            to.push(0xce);
            to.extend((value as u32).to_be_bytes());
        }
        _ => {
            to.push(0xd3);
            to.extend(value.to_be_bytes());
        }
    }
}

pub fn text(to: &mut Vec<u8>, value: &str) {
    match value.len() {
        length @ 0..=31 => to.push(0xa0 | length as u8),
        length => header(to, [0xd9, 0xda, 0xdb], length),
    }
    to.extend_from_slice(value.as_bytes());
}

pub fn binary(to: &mut Vec<u8>, value: &[u8]) {
    header(to, [0xc4, 0xc5, 0xc6], value.len());
    to.extend_from_slice(value);
}

pub fn array(to: &mut Vec<u8>, length: usize) {
    match length {
        0..=15 => to.push(0x90 | length as u8),
        _ => {
            to.push(ARRAY_32);
            to.extend((length as u32).to_be_bytes());
        }
    }
}

/// Write a length behind the first of three marks that has room for it: in one, two or four bytes.
fn header(to: &mut Vec<u8>, marks: [u8; 3], length: usize) {
    match length {
        0..=0xff => to.extend([marks[0], length as u8]),
        0x100..=0xffff => {
            to.push(marks[1]);
            to.extend((length as u16).to_be_bytes());
        }
        _ => {
            to.push(marks[2]);
            to.extend((length as u32).to_be_bytes());
        }
    }
}
