//! A chunk of a TIFF picture that is coded as fax machines do it.

use std::convert::Infallible;

use fax::decoder::{DecodeStatus, Group3Decoder, Group4Decoder};
use fax::maps::{Mode, black, mode, white};
use fax::{BitReader, ByteReader};

use super::layout::{Chunk, Layout};

/// Rows of bits, black ones set, from the columns where the colour changes.
struct FaxRows {
    bytes: Vec<u8>,
    width: u16,
    rows: usize,
}

impl FaxRows {
    fn new(layout: &Layout, at: &Chunk) -> Self {
        Self {
            bytes: Vec::new(),
            width: u16::try_from(layout.chunk_width).unwrap_or(u16::MAX),
            rows: at.rows,
        }
    }

    /// Whether all rows are there.
    fn is_full(&self) -> bool {
        self.bytes.len() >= self.rows * usize::from(self.width).div_ceil(8)
    }

    fn push(&mut self, changes: &[u16]) {
        let start = self.bytes.len();
        let row_bytes = usize::from(self.width).div_ceil(8);
        self.bytes.resize(start + row_bytes, 0);
        let row = &mut self.bytes[start..];
        // White comes first.
        for run in changes.chunks(2).filter_map(|run| {
            let begin = *run.first()?;
            Some(begin..run.get(1).copied().unwrap_or(self.width).min(self.width))
        }) {
            for x in run {
                row[usize::from(x) / 8] |= 0x80 >> (x % 8);
            }
        }
    }
}

/// The bytes of a chunk. The codes' tables look at more bits than the last code has.
fn fax_bytes(stored: &[u8]) -> impl Iterator<Item = Result<u8, Infallible>> {
    stored.iter().copied().chain([0; 4]).map(Ok)
}

pub(super) fn group_4(stored: &[u8], layout: &Layout, at: &Chunk) -> Vec<u8> {
    let mut rows = FaxRows::new(layout, at);
    let bytes = fax_bytes(stored);
    let Ok(mut decoder) = Group4Decoder::new(bytes, rows.width);
    while !rows.is_full()
        && let Ok(DecodeStatus::Incomplete) = decoder.advance()
    {
        rows.push(decoder.transition());
    }
    rows.bytes
}

pub(super) fn group_3(stored: &[u8], layout: &Layout, at: &Chunk) -> Vec<u8> {
    let mut rows = FaxRows::new(layout, at);
    let bytes = fax_bytes(stored);
    if let Ok(mut decoder) = Group3Decoder::new(bytes) {
        while !rows.is_full() {
            let status = decoder.advance();
            // The last row has no end of its own.
            rows.push(decoder.transitions());
            if !matches!(status, Ok(DecodeStatus::Incomplete)) {
                break;
            }
        }
    }
    rows.bytes
}

/// Group 3 in two dimensions: each row begins with a mark and a bit, which says whether the row is coded by its runs or
/// by where its colours change beside those of the row above (ITU-T T.4, 4.2).
pub(super) fn group_3_by_rows_above(stored: &[u8], layout: &Layout, at: &Chunk) -> Vec<u8> {
    let mut rows = FaxRows::new(layout, at);
    let Ok(mut reader) = ByteReader::new(fax_bytes(stored));
    let mut above = Vec::new();
    while !rows.is_full() && skip_mark(&mut reader) {
        let row = match next_bit(&mut reader) {
            Some(1) => row_of_runs(&mut reader, rows.width),
            Some(_) => row_below(&mut reader, rows.width, &above),
            None => None,
        };
        let Some(changes) = row else { break };
        rows.push(&changes);
        above = changes;
    }
    rows.bytes
}

fn next_bit(reader: &mut impl BitReader) -> Option<u16> {
    let bit = reader.peek(1)?;
    reader.consume(1).ok()?;
    Some(bit)
}

/// Goes on behind the next mark: eleven zeros or more, and a one.
fn skip_mark(reader: &mut impl BitReader) -> bool {
    let mut zeros = 0;
    while let Some(bit) = next_bit(reader) {
        match bit {
            0 => zeros += 1,
            _ if zeros >= 11 => return true,
            _ => zeros = 0,
        }
    }
    false
}

/// Adds a change of colour; two at one place are none.
fn change(changes: &mut Vec<u16>, at: u16) {
    if changes.last() == Some(&at) {
        changes.pop();
    } else {
        changes.push(at);
    }
}

/// The columns where a row of runs changes its colour.
fn row_of_runs(reader: &mut impl BitReader, width: u16) -> Option<Vec<u16>> {
    let (mut changes, mut x, mut is_black) = (Vec::new(), 0u16, false);
    while x < width {
        x = x.saturating_add(run(reader, is_black)?);
        change(&mut changes, x);
        is_black = !is_black;
    }
    Some(changes)
}

/// The same of a row that is told by its differences from the row above.
fn row_below(reader: &mut impl BitReader, width: u16, above: &[u16]) -> Option<Vec<u16>> {
    let (mut changes, mut x, mut is_black) = (Vec::new(), 0u16, false);
    // The first change above that is beyond x; before the first pixel, one at the edge is too.
    let mut next = 0;
    while x < width {
        // Changes of an even number are to black: the one that counts is away from the present colour.
        let first = next + (next + usize::from(is_black)) % 2;
        let above_at = |index: usize| above.get(index).copied().unwrap_or(width);
        match mode::decode(reader)? {
            Mode::Pass => x = above_at(first + 1),
            Mode::Vertical(by) => {
                let to = i32::from(above_at(first)) + i32::from(by);
                let to = u16::try_from(to).ok().filter(|to| *to >= x)?;
                change(&mut changes, to);
                (x, is_black) = (to, !is_black);
            }
            Mode::Horizontal => {
                for is_black in [is_black, !is_black] {
                    x = x.saturating_add(run(reader, is_black)?);
                    change(&mut changes, x);
                }
            }
            Mode::Extension | Mode::EOF => return None,
        }
        while above.get(next).is_some_and(|at| *at <= x) {
            next += 1;
        }
    }
    Some(changes)
}

/// Group 3's codes without ends of rows: each row begins with a byte of its own.
pub(super) fn modified_huffman(stored: &[u8], layout: &Layout, at: &Chunk) -> Vec<u8> {
    let mut rows = FaxRows::new(layout, at);
    let bytes = fax_bytes(stored);
    let Ok(mut reader) = ByteReader::new(bytes);
    while !rows.is_full() {
        let Some(changes) = row_of_runs(&mut reader, rows.width) else {
            break;
        };
        rows.push(&changes);
        let rest = reader.bits_to_byte_boundary();
        if reader.consume(rest).is_err() {
            break;
        }
    }
    rows.bytes
}

/// The length of a run: codes up to the first below 64.
fn run(reader: &mut impl BitReader, is_black: bool) -> Option<u16> {
    let mut sum = 0u16;
    loop {
        let code = if is_black {
            black::decode(reader)?
        } else {
            white::decode(reader)?
        };
        sum = sum.checked_add(code)?;
        if code < 64 {
            return Some(sum);
        }
    }
}
