//! The bytes of a capture, decompressed if they are compressed by gzip or zstd.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Chain, Cursor, Error, ErrorKind, Read, Result};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// Bytes that are read, and unpacked, at a time.
const BUFFER: usize = 1 << 16;

/// Magic numbers of compressed files.
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The second to fourth byte of a frame of zstd that holds no data; the first is 0x50 to 0x5f.
const ZSTD_SKIPPED: [u8; 3] = [0x2a, 0x4d, 0x18];

/// Compressions that are recognised but not supported: magic number, and the command that decompresses it.
const OTHERS: [(&[u8], &str); 4] = [
    (&[0x04, 0x22, 0x4d, 0x18], "lz4 -d"),
    (&[0xfd, b'7', b'z', b'X', b'Z'], "xz -d"),
    (b"BZh", "bzip2 -d"),
    (b"PK\x03\x04", "unzip"),
];

/// The error of reading, if the content of the file was not the cause.
pub(super) type Failure = Rc<RefCell<Option<String>>>;

type First<R> = BufReader<Chain<Cursor<Vec<u8>>, Raw<R>>>;

/// The bytes of a file, and the error that ended them.
#[derive(Debug)]
pub(super) struct Raw<R> {
    inner: R,
    failure: Failure,
}

impl<R: Read> Read for Raw<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            match self.inner.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    *self.failure.borrow_mut() = Some(error.to_string());
                    return Err(error);
                }
                Ok(length) => return Ok(length),
            }
        }
    }
}

/// Sources of a capture.
#[expect(clippy::large_enum_variant, reason = "there is one")]
pub(super) enum Input<R: Read> {
    Plain(First<R>),
    Gzip(BufReader<MultiGzDecoder<First<R>>>),
    Zstd(BufReader<Zstd<First<R>>>),
}

impl<R: Read> std::fmt::Debug for Input<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Gzip(_) => "Gzip",
            Self::Zstd(_) => "Zstd",
        })
    }
}

impl<R: Read> Input<R> {
    /// Looks at the first bytes of `inner`.
    pub(super) fn new(inner: R) -> Result<(Self, Failure)> {
        let failure = Failure::default();
        let mut raw = Raw { inner, failure: Rc::clone(&failure) };
        let mut magic = Vec::with_capacity(4);
        (&mut raw).take(4).read_to_end(&mut magic)?;
        let (is_gzip, is_zstd) = (magic.starts_with(&GZIP), is_zstd(&magic));
        let first = BufReader::with_capacity(BUFFER, Cursor::new(magic).chain(raw));
        let input = if is_gzip {
            Self::Gzip(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(first)))
        } else if is_zstd {
            Self::Zstd(BufReader::with_capacity(
                BUFFER,
                Zstd { source: first, decoder: FrameDecoder::new(), within: false },
            ))
        } else {
            Self::Plain(first)
        };
        Ok((input, failure))
    }

    fn reader(&mut self) -> &mut dyn BufRead {
        match self {
            Self::Plain(reader) => reader,
            Self::Gzip(reader) => reader,
            Self::Zstd(reader) => reader,
        }
    }

    /// Appends up to `count` bytes to `out`, and returns their number: fewer only at the end.
    #[inline]
    pub(super) fn append(&mut self, count: usize, out: &mut Vec<u8>) -> Result<usize> {
        if let Self::Plain(reader) = self
            && let Some(ready) = reader.buffer().get(..count)
        {
            out.extend_from_slice(ready);
            reader.consume(count);
            return Ok(count);
        }
        self.append_slowly(count, out)
    }

    #[inline(never)]
    fn append_slowly(&mut self, count: usize, out: &mut Vec<u8>) -> Result<usize> {
        let reader = self.reader();
        let mut left = count;
        while left > 0 {
            let ready = match reader.fill_buf() {
                Ok(ready) => &ready[..ready.len().min(left)],
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if ready.is_empty() {
                break;
            }
            out.extend_from_slice(ready);
            let taken = ready.len();
            reader.consume(taken);
            left -= taken;
        }
        Ok(count - left)
    }
}

/// The command that decompresses a file that begins like this, if the compression is not supported.
pub(super) fn unpacker(first: &[u8]) -> Option<&'static str> {
    OTHERS
        .iter()
        .find(|(magic, _)| first.starts_with(magic) || magic.starts_with(first) && first.len() == 4)
        .map(|other| other.1)
}

fn is_zstd(first: &[u8]) -> bool {
    first == ZSTD || first.len() == 4 && first[0] & 0xf0 == 0x50 && first[1..] == ZSTD_SKIPPED
}

/// Frames of zstd, one after the other.
pub(super) struct Zstd<R: BufRead> {
    source: R,
    decoder: FrameDecoder,
    /// The decoder is in a frame.
    within: bool,
}

impl<R: BufRead> Zstd<R> {
    /// Begins the next frame with data; false at the end of the file.
    fn begin(&mut self) -> Result<bool> {
        loop {
            if self.source.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.init(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    std::io::copy(&mut (&mut self.source).take(length.into()), &mut std::io::sink())?;
                }
                Err(error) => return Err(Error::other(error)),
            }
        }
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            if self.decoder.can_collect() > 0 {
                return self.decoder.read(buffer);
            }
            if self.within && !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.source, one).map_err(Error::other)?;
                continue;
            }
            self.within = self.begin()?;
            if !self.within {
                return Ok(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read(file: &[u8]) -> Result<Vec<u8>> {
        let (mut input, _) = Input::new(file)?;
        let mut out = Vec::new();
        // Small and large steps: within the buffer and over its end.
        while input.append(out.len() % 100_000 + 1, &mut out)? > 0 {}
        Ok(out)
    }

    fn text() -> Vec<u8> {
        (0..100_000_u32).flat_map(|number| (number / 7).to_le_bytes()).collect()
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(text, ruzstd::encoding::CompressionLevel::Fastest)
    }

    #[test]
    fn what_is_compressed_is_unpacked_all_of_it() {
        let text = text();
        let (one, two) = text.split_at(123_456);
        let skipped = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
        assert!(read(&text).unwrap() == text);
        assert!(read(&gzip(&text)).unwrap() == text);
        assert!(read(&[gzip(one), gzip(two)].concat()).unwrap() == text);
        assert!(read(&zstd(&text)).unwrap() == text);
        assert!(read(&[&skipped[..], &zstd(one), &skipped, &zstd(two), &skipped].concat()).unwrap() == text);
    }

    #[test]
    fn what_ends_early_is_an_error_after_what_was_whole() {
        for file in [gzip(&text()), zstd(&text())] {
            let (mut input, failure) = Input::new(&file[..file.len() - 10]).unwrap();
            let mut out = Vec::new();
            assert!(input.append(usize::MAX, &mut out).is_err());
            assert!(!out.is_empty() && text().starts_with(&out));
            assert_eq!(*failure.borrow(), None, "it is the file's own fault");
        }
    }

    #[test]
    fn a_failure_to_read_is_told_from_what_a_file_contains() {
        struct Failing;
        impl Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> Result<usize> {
                Err(Error::other("no more"))
            }
        }
        for file in [gzip(&text()), zstd(&text()), text()] {
            let (mut input, failure) = Input::new(file[..1_000].chain(Failing)).unwrap();
            assert!(input.append(usize::MAX, &mut Vec::new()).is_err());
            assert_eq!(failure.borrow().as_deref(), Some("no more"));
        }
    }
}
