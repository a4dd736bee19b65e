//! The seed of cloud-init's NoCloud source: an ISO 9660 image named `cidata` that holds two files.
//!
//! ISO 9660 proper (ECMA-119) knows no names such as `user-data`, so they are in its Joliet extension, which every
//! system that runs cloud-init reads. The image depends on its content alone: no clock, no identifiers.

/// The label by which cloud-init knows its seed.
const LABEL: &str = "cidata";
const SECTOR: usize = 2048;
/// Where the parts are, in sectors; the descriptor of Joliet follows the primary one. The first sixteen belong to the system that the disc would boot.
const PRIMARY: usize = 16;
const END: usize = 18;
const PATHS: usize = 19;
const PRIMARY_ROOT: usize = 23;
const JOLIET_ROOT: usize = 24;
const CONTENT: usize = 25;
/// The first of January 1980, midnight: dates are asked for and mean nothing here.
const DATE: [u8; 7] = [80, 1, 1, 0, 0, 0, 0];

/// A name as the two directories have it.
struct File<'a> {
    plain: &'a str,
    joliet: &'a str,
    content: &'a [u8],
}

/// The image for a machine of this name that boots with this user-data.
pub fn image(name: &str, user_data: &str) -> Vec<u8> {
    // JSON is YAML, and quotes whatever the name holds.
    let quoted = pacer_backend::serde_json::Value::from(name);
    let meta_data = format!("instance-id: {quoted}\nlocal-hostname: {quoted}\n");
    iso(&[
        File { plain: "METADATA.;1", joliet: "meta-data", content: meta_data.as_bytes() },
        File { plain: "USERDATA.;1", joliet: "user-data", content: user_data.as_bytes() },
    ])
}

fn iso(files: &[File<'_>]) -> Vec<u8> {
    let mut next = CONTENT;
    let mut entries: [Vec<u8>; 2] = [root(PRIMARY_ROOT), root(JOLIET_ROOT)];
    let mut content = Vec::new();
    for file in files {
        entries[0].extend(record(next, file.content.len(), 0, file.plain.as_bytes()));
        entries[1].extend(record(next, file.content.len(), 0, &utf16(file.joliet)));
        content.extend(padded(file.content.to_vec()));
        next += file.content.len().div_ceil(SECTOR);
    }
    let mut image = vec![0; PRIMARY * SECTOR];
    image.extend(descriptor(1, PATHS, PRIMARY_ROOT, next));
    image.extend(descriptor(2, PATHS + 2, JOLIET_ROOT, next));
    image.extend(padded([&[255][..], b"CD001", &[1]].concat()));
    debug_assert_eq!(image.len(), (END + 1) * SECTOR);
    for directory in [PRIMARY_ROOT, JOLIET_ROOT] {
        image.extend(padded(path_table(u32::to_le_bytes(word(directory)), u16::to_le_bytes(1))));
        image.extend(padded(path_table(u32::to_be_bytes(word(directory)), u16::to_be_bytes(1))));
    }
    for directory in entries {
        image.extend(padded(directory));
    }
    image.extend(content);
    image
}

/// Volume descriptor: type 1 is the primary one, 2 the one of Joliet.
fn descriptor(kind: u8, paths: usize, directory: usize, sectors: usize) -> Vec<u8> {
    let joliet = kind == 2;
    let text = |text: &str, length: usize| {
        let mut bytes = if joliet { utf16(text) } else { text.as_bytes().to_vec() };
        while bytes.len() + 1 < length {
            bytes.extend(if joliet { &[0, b' '][..] } else { b" " });
        }
        bytes.resize(length, if joliet { 0 } else { b' ' });
        bytes
    };
    let mut d = vec![kind];
    d.extend(b"CD001\x01\x00");
    d.extend(text("", 32));
    d.extend(text(LABEL, 32));
    d.extend([0; 8]);
    d.extend(both32(sectors));
    let mut escapes = [0; 32];
    if joliet {
        // UCS-2 level 3.
        escapes[..3].copy_from_slice(b"%/E");
    }
    d.extend(escapes);
    d.extend([both16(1), both16(1), both16(SECTOR)].concat());
    d.extend(both32(PATH_TABLE));
    d.extend(word(paths).to_le_bytes());
    d.extend([0; 4]);
    d.extend(word(paths + 1).to_be_bytes());
    d.extend([0; 4]);
    d.extend(record(directory, SECTOR, DIRECTORY, &[0]));
    // Volume set, publisher, preparer, application; three files that there are none of.
    for length in [128, 128, 128, 128, 37, 37, 37] {
        d.extend(text("", length));
    }
    for _ in 0..4 {
        d.extend(b"0000000000000000\0");
    }
    d.extend([1, 0]);
    padded(d)
}

/// The flag of a directory.
const DIRECTORY: u8 = 2;
/// Bytes of a path table that holds the root alone.
const PATH_TABLE: usize = 10;

fn path_table(directory: [u8; 4], parent: [u8; 2]) -> Vec<u8> {
    [&[1, 0][..], &directory, &parent, &[0, 0]].concat()
}

/// A directory's entries for itself and its parent, which are the same for the root.
fn root(sector: usize) -> Vec<u8> {
    [record(sector, SECTOR, DIRECTORY, &[0]), record(sector, SECTOR, DIRECTORY, &[1])].concat()
}

fn record(sector: usize, length: usize, flags: u8, name: &[u8]) -> Vec<u8> {
    let size = (33 + name.len()).next_multiple_of(2);
    let mut r = vec![byte(size), 0];
    r.extend(both32(sector));
    r.extend(both32(length));
    r.extend(DATE);
    r.extend([flags, 0, 0]);
    r.extend(both16(1));
    r.push(byte(name.len()));
    r.extend(name);
    r.resize(size, 0);
    r
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
    bytes
}

/// Both byte orders, one after the other, as the format asks for.
fn both32(value: usize) -> Vec<u8> {
    [word(value).to_le_bytes(), word(value).to_be_bytes()].concat()
}

fn both16(value: usize) -> Vec<u8> {
    let value = u16::try_from(value).unwrap_or(u16::MAX);
    [value.to_le_bytes(), value.to_be_bytes()].concat()
}

/// Saturates: user-data is limited to a size far below.
fn word(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn byte(value: usize) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}
