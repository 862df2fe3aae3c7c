//! Reads the ELF file that clang compiles from `wire.c`: a section for each program, one for the maps, and the places where
//! programs refer to maps. It supports only the features of that file.

/// The file is not one that this reader understands: a bug, since it is built into the binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the compiled programs cannot be read: {0}")]
pub(super) struct BadObject(&'static str);

/// The programs and maps of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) programs: Vec<Program>,
    pub(super) maps: Vec<Map>,
}

/// A program.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) name: String,
    /// Instructions of 8 bytes.
    pub(super) code: Vec<u64>,
    /// Which instructions refer to which map.
    pub(super) references: Vec<(usize, usize)>,
}

/// A map: type, key size, value size, entries, flags.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Map {
    pub(super) name: String,
    pub(super) shape: [u32; 5],
}

/// Section of the maps; each has [`Map::shape`] there.
const MAPS: &str = "maps";
/// Prefix of the names of sections with programs.
const PROGRAM: &str = "tc/";
const MACHINE_BPF: u16 = 247;
const SYMBOLS: u32 = 2;
const RELOCATIONS: u32 = 9;
/// The second half of the instruction's address is a map (`R_BPF_64_64`).
const REFERENCE: u32 = 1;
const SYMBOL_SIZE: usize = 24;
const SECTION_SIZE: usize = 64;
const RELOCATION_SIZE: usize = 16;
const SHAPE_SIZE: usize = 20;
/// Set in the source register of a load, it says that the immediate is the descriptor of a map (`BPF_PSEUDO_MAP_FD`).
const MAP_DESCRIPTOR: u64 = 1 << 12;

struct Section<'a> {
    name: &'a str,
    kind: u32,
    /// Of relocations: the section that they change.
    about: usize,
    bytes: &'a [u8],
}

struct Symbol<'a> {
    name: &'a str,
    section: usize,
    value: usize,
}

impl Object {
    /// Reads a little-endian ELF file of 64 bits.
    pub(super) fn read(file: &[u8]) -> Result<Self, BadObject> {
        let is_elf = file.starts_with(b"\x7fELF\x02\x01") && half(file, 18) == Some(MACHINE_BPF);
        if !is_elf {
            return Err(BadObject("no BPF object"));
        }
        let sections = sections(file).ok_or(BadObject("its sections"))?;
        let symbols = symbols(&sections).ok_or(BadObject("its symbols"))?;
        let maps_at = sections.iter().position(|section| section.name == MAPS);
        let maps_at = maps_at.ok_or(BadObject("it has no maps"))?;
        let of_maps = symbols.iter().filter(|symbol| symbol.section == maps_at && !symbol.name.is_empty());
        let mut maps: Vec<(usize, Map)> = Vec::new();
        for symbol in of_maps {
            let shape = sections[maps_at].bytes.get(symbol.value..symbol.value + SHAPE_SIZE);
            let shape = shape.ok_or(BadObject("a map outside its section"))?;
            let word = |at: usize| word(shape, at * 4).unwrap_or(0);
            let shape = [word(0), word(1), word(2), word(3), word(4)];
            maps.push((symbol.value, Map { name: symbol.name.to_owned(), shape }));
        }
        let places: Vec<usize> = maps.iter().map(|(place, _)| *place).collect();
        let mut programs = Vec::new();
        for (at, section) in sections.iter().enumerate() {
            if let Some(name) = section.name.strip_prefix(PROGRAM) {
                let relocations =
                    sections.iter().find(|other| other.kind == RELOCATIONS && other.about == at);
                let references = relocations.map_or(Some(Vec::new()), |relocations| {
                    references(relocations.bytes, &symbols, maps_at, &places)
                });
                programs.push(Program {
                    name: name.to_owned(),
                    code: words(section.bytes),
                    references: references.ok_or(BadObject("a reference to what is no map"))?,
                });
            }
        }
        Ok(Self { programs, maps: maps.into_iter().map(|(_, map)| map).collect() })
    }
}

impl Program {
    /// The code, with the descriptors of the maps in the order of [`Object::maps`].
    pub(super) fn linked(&self, descriptors: &[i32]) -> Vec<u64> {
        let mut code = self.code.clone();
        for &(at, map) in &self.references {
            code[at] = code[at] & 0xffff_ffff | u64::from(descriptors[map] as u32) << 32 | MAP_DESCRIPTOR;
        }
        code
    }
}

/// Instructions and maps from a section of relocations.
fn references(
    bytes: &[u8],
    symbols: &[Symbol<'_>],
    maps: usize,
    places: &[usize],
) -> Option<Vec<(usize, usize)>> {
    let read = |entry: &[u8]| {
        let offset = long(entry, 0)? as usize;
        let info = long(entry, 8)?;
        let symbol = symbols.get((info >> 32) as usize)?;
        let map = places.iter().position(|&place| symbol.section == maps && place == symbol.value)?;
        (info as u32 == REFERENCE && offset.is_multiple_of(8)).then_some((offset / 8, map))
    };
    bytes.chunks_exact(RELOCATION_SIZE).map(read).collect()
}

fn sections(file: &[u8]) -> Option<Vec<Section<'_>>> {
    let table = long(file, 40)? as usize;
    let (count, names) = (usize::from(half(file, 60)?), usize::from(half(file, 62)?));
    let header = |index: usize| file.get(table + index * SECTION_SIZE..)?.get(..SECTION_SIZE);
    let content = |header: &[u8]| {
        let (at, length) = (long(header, 24)? as usize, long(header, 32)? as usize);
        file.get(at..at.checked_add(length)?)
    };
    let names = content(header(names)?)?;
    let section = |index| {
        let header = header(index)?;
        Some(Section {
            name: text(names, word(header, 0)? as usize)?,
            kind: word(header, 4)?,
            about: word(header, 44)? as usize,
            bytes: content(header)?,
        })
    };
    (0..count).map(section).collect()
}

fn symbols<'a>(sections: &[Section<'a>]) -> Option<Vec<Symbol<'a>>> {
    let table = sections.iter().find(|section| section.kind == SYMBOLS)?;
    // Symbols name themselves in the one table of strings.
    let names = sections.iter().find(|section| section.name == ".strtab")?.bytes;
    let symbol = |entry: &[u8]| {
        Some(Symbol {
            name: text(names, word(entry, 0)? as usize)?,
            section: usize::from(half(entry, 6)?),
            value: long(entry, 8)? as usize,
        })
    };
    table.bytes.chunks_exact(SYMBOL_SIZE).map(symbol).collect()
}

fn text(names: &[u8], at: usize) -> Option<&str> {
    let bytes = names.get(at..)?;
    let end = bytes.iter().position(|&byte| byte == 0)?;
    std::str::from_utf8(&bytes[..end]).ok()
}

fn words(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(8).filter_map(|chunk| long(chunk, 0)).collect()
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|chunk| u16::from_le_bytes(*chunk))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_le_bytes(*chunk))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|chunk| u64::from_le_bytes(*chunk))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_object_in_the_tree_has_its_programs_and_maps() {
        let object = Object::read(super::super::loaded::WIRE).unwrap();
        let names: Vec<_> = object.programs.iter().map(|program| program.name.as_str()).collect();
        assert_eq!(names, ["leave", "arrive", "left", "arrived", "forward", "deliver"]);
        let number = |name: &str| object.maps.iter().position(|map| map.name == name).unwrap();
        let (settings, ports) = (number("settings"), number("ports"));
        assert_eq!(object.maps[settings].shape, [2, 4, 32, 1, 0]);
        assert_eq!(object.maps[ports].shape, [2, 4, 24, 1, 0]);
        for program in &object.programs {
            let needed = if program.name == "deliver" { ports } else { settings };
            assert!(program.references.iter().any(|(_, map)| *map == needed), "{}", program.name);
            let descriptors: Vec<i32> = (0..object.maps.len() as i32).map(|map| map + 100).collect();
            let linked = program.linked(&descriptors);
            for &(at, map) in &program.references {
                // A load of 64 bits from a map: opcode 0x18, source register 1.
                assert_eq!(linked[at] as u8, 0x18);
                assert_eq!(linked[at] >> 12 & 0xf, 1);
                assert_eq!(linked[at] >> 32, 100 + map as u64);
            }
        }
    }

    /// Linux 6.6 is the oldest with tcx, which attachments need. The programs call only helpers that are older, no kernel function (kfunc) and no function of
    /// their own. They have no instruction of `-mcpu=v4`, and few instructions.
    #[test]
    fn programs_need_nothing_newer_than_tcx() {
        // map_lookup_elem, redirect, skb_change_type, skb_pull_data, redirect_peer.
        const HELPERS: [u64; 5] = [1, 23, 32, 39, 155];
        for program in &Object::read(super::super::loaded::WIRE).unwrap().programs {
            let name = &program.name;
            assert!(program.code.len() < 4_096, "{name} has {} instructions", program.code.len());
            let mut at = 0;
            while at < program.code.len() {
                let word = program.code[at];
                let (opcode, source, offset) = (word as u8, word >> 12 & 0xf, (word >> 16) as i16);
                let (class, mode) = (opcode & 0x07, opcode & 0xe0);
                match (class, opcode) {
                    (5, 0x85) => assert!(source == 0 && HELPERS.contains(&(word >> 32)), "{name} at {at}"),
                    (5 | 6, 0x06) => panic!("{name} at {at}: a jump of 32 bits"),
                    (4 | 7, _) => assert!(offset == 0 && opcode != 0xd7, "{name} at {at}: signed, or a swap"),
                    (1, _) => assert!(mode == 0x60, "{name} at {at}: a load with a sign"),
                    _ => {}
                }
                at += if opcode == 0x18 { 2 } else { 1 };
            }
        }
    }

    proptest! {
        #[test]
        fn a_damaged_object_is_refused_or_read_but_never_panics(at: prop::sample::Index, with: u8, cut: prop::sample::Index) {
            let mut file = super::super::loaded::WIRE.to_vec();
            let at = at.index(file.len());
            file[at] = with;
            let _ = Object::read(&file);
            file.truncate(cut.index(file.len()));
            let _ = Object::read(&file);
        }
    }
}
