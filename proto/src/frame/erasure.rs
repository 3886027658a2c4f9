//! The erasure code of fragments: parity blocks are made from data blocks, and lost data blocks from any as many
//! others.
//!
//! A systematic Reed-Solomon code over GF(2^8) with a Cauchy matrix; `PROTOCOL.md` gives it in three lines. It mends
//! what is missing and never finds what is wrong: whoever uses it knows which blocks arrived, and that they are whole.
//! Nothing here knows frames or fragments.
//!
//! Written here because messages are small: of 20 kB in 17 + 5 blocks with two lost, reed-solomon-simd restores them in
//! 170 µs after 40 ms for its tables, this in 5 µs, and a second implementation needs no library for it.

/// Data blocks that one code covers at most.
pub const DATA_BLOCKS_MAX: usize = 120;
/// Parity blocks that one code makes at most.
pub const PARITY_BLOCKS_MAX: usize = 122;

const BLOCKS_MAX: usize = DATA_BLOCKS_MAX + PARITY_BLOCKS_MAX;
/// Parity row r is the point 128 + r of the field, data block i the point i: no two are the same.
const FIRST_ROW: u8 = 128;
/// x^8 + x^4 + x^3 + x^2 + 1, without x^8; x generates the field.
const POLYNOMIAL: u8 = 0x1d;
/// Elements of the field but 0, and so the period of logarithms.
const ORDER: u32 = 255;

const _: () = assert!(DATA_BLOCKS_MAX <= FIRST_ROW as usize);
const _: () = assert!(FIRST_ROW as usize + PARITY_BLOCKS_MAX <= 256);

/// Makes parity block `row` of `data` blocks that are all as long as `out`.
///
/// # Panics
///
/// With more than [`DATA_BLOCKS_MAX`] blocks, a row that is not below [`PARITY_BLOCKS_MAX`], or blocks of other lengths.
///
/// ```
/// use twinlane_proto::frame::erasure::{Restoration, make_parity};
///
/// let data = [&b"any two "[..], b"of three"];
/// let mut parity = [0; 8];
/// make_parity(0, &data, &mut parity);
///
/// let mut restored = [0; 8];
/// Restoration::new(2, &[(1, data[1]), (2, &parity)]).restore(0, &mut restored);
/// assert_eq!(&restored, b"any two ");
/// ```
pub fn make_parity(row: usize, data: &[&[u8]], out: &mut [u8]) {
    assert!(data.len() <= DATA_BLOCKS_MAX && row < PARITY_BLOCKS_MAX, "{} blocks, row {row}", data.len());
    let point = FIRST_ROW + row as u8;
    let factor = |block: u8| power(log(FIRST_ROW ^ block) + ORDER - log(point ^ block));
    let mut sum = Sum::new();
    for (number, block) in data.iter().enumerate() {
        assert!(block.len() == out.len(), "data block {number} has {} bytes", block.len());
        sum.add(number, factor(number as u8));
    }
    sum.write(data, out);
}

/// How the lost data blocks of one code come out of those that are known.
///
/// The known blocks are values of one polynomial, of lower degree than there are of them; a lost block is its value
/// at another point. Work: each known block is read once for each lost one.
#[derive(Debug)]
pub struct Restoration<'b> {
    blocks: Vec<&'b [u8]>,
    /// For each block its point, and the logarithm of the part of its factor that is the same for every lost block.
    weights: Vec<(u8, u32)>,
    lost: Vec<u8>,
    rows: Vec<u8>,
}

impl<'b> Restoration<'b> {
    /// For a code of `data` data blocks of which `known` are there: as many, all of one length, each with its number,
    /// and parity row r has the number `data + r`.
    ///
    /// # Panics
    ///
    /// If there are not `data` known blocks, if one is there twice, has another length, or cannot be.
    #[must_use]
    pub fn new(data: usize, known: &[(usize, &'b [u8])]) -> Self {
        assert!(data <= DATA_BLOCKS_MAX && known.len() == data, "{} blocks for {data}", known.len());
        let mut is_known = [false; BLOCKS_MAX];
        let bytes = known.first().map_or(0, |(_, block)| block.len());
        for (number, block) in known {
            assert!(*number < data + PARITY_BLOCKS_MAX && block.len() == bytes, "no such block: {number}");
            assert!(!std::mem::replace(&mut is_known[*number], true), "block {number} is there twice");
        }
        let point =
            |number: usize| number.checked_sub(data).map_or(number as u8, |row| FIRST_ROW + row as u8);
        let lost: Vec<u8> = (0..data).filter(|number| !is_known[*number]).map(point).collect();
        let rows: Vec<u8> =
            known.iter().filter(|(number, _)| *number >= data).map(|(n, _)| point(*n)).collect();
        let weigh = |(number, _): &(usize, &[u8])| {
            let point = point(*number);
            let scale = if *number < data { log(FIRST_ROW ^ point) } else { 0 };
            (point, (scale + log_ratio(point, &lost, &rows)) % ORDER)
        };
        let weights = known.iter().map(weigh).collect();
        Self { blocks: known.iter().map(|(_, block)| *block).collect(), weights, lost, rows }
    }

    /// Numbers of the data blocks that are not known, rising.
    pub fn lost(&self) -> impl Iterator<Item = usize> + '_ {
        self.lost.iter().map(|point| usize::from(*point))
    }

    /// Makes lost data block `number`.
    ///
    /// # Panics
    ///
    /// If this block is not lost, or `out` is not as long as a block.
    pub fn restore(&self, number: usize, out: &mut [u8]) {
        let lost = number as u8;
        assert!(self.lost.contains(&lost) && number < DATA_BLOCKS_MAX, "block {number} is not lost");
        assert!(self.blocks.iter().all(|block| block.len() == out.len()), "the length of a block");
        let scale = (log(FIRST_ROW ^ lost) + log_ratio(lost, &self.lost, &self.rows)) % ORDER;
        let mut sum = Sum::new();
        for (number, (point, weight)) in self.weights.iter().enumerate() {
            sum.add(number, power(weight + 2 * ORDER - scale - log(lost ^ point)));
        }
        sum.write(&self.blocks, out);
    }
}

/// Logarithm of the product of `point - lost` divided by the product of `point - row`, over all that differ from it.
fn log_ratio(point: u8, lost: &[u8], rows: &[u8]) -> u32 {
    let product = |points: &[u8]| -> u32 {
        points.iter().filter(|other| **other != point).map(|other| log(point ^ other)).sum()
    };
    (product(lost) + ORDER - product(rows) % ORDER) % ORDER
}

/// A sum of blocks times factors, as eight lists: the blocks whose factor has bit 7, bit 6, and so on.
///
/// Going down the lists, the running sum is doubled once for each list and not once for each block. What is left per
/// block is exclusive-or, which compilers turn into vector instructions of every machine: no tables, nothing to detect.
struct Sum {
    blocks: [[u8; BLOCKS_MAX]; 8],
    counts: [usize; 8],
}

/// Bytes that are summed up at once: what fits a few vector registers.
const CHUNK_BYTES: usize = 256;

impl Sum {
    fn new() -> Self {
        Self { blocks: [[0; BLOCKS_MAX]; 8], counts: [0; 8] }
    }

    fn add(&mut self, block: usize, factor: u8) {
        for (bit, (blocks, count)) in self.blocks.iter_mut().zip(&mut self.counts).enumerate() {
            blocks[*count] = block as u8;
            *count += usize::from(factor >> bit & 1);
        }
    }

    fn write(&self, blocks: &[&[u8]], out: &mut [u8]) {
        let lists = 8 - self.counts.iter().rev().take_while(|count| **count == 0).count();
        for (number, out) in out.chunks_mut(CHUNK_BYTES).enumerate() {
            let at = number * CHUNK_BYTES;
            let mut sum = [0; CHUNK_BYTES];
            for bit in (0..lists).rev() {
                if bit + 1 < lists {
                    sum = sum.map(double);
                }
                for block in &self.blocks[bit][..self.counts[bit]] {
                    add(&mut sum, &blocks[usize::from(*block)][at..]);
                }
            }
            out.copy_from_slice(&sum[..out.len()]);
        }
    }
}

#[inline]
fn add(sum: &mut [u8; CHUNK_BYTES], block: &[u8]) {
    if let Some(block) = block.first_chunk::<CHUNK_BYTES>() {
        sum.iter_mut().zip(block).for_each(|(sum, byte)| *sum ^= byte);
    } else {
        sum.iter_mut().zip(block).for_each(|(sum, byte)| *sum ^= byte);
    }
}

#[inline]
const fn double(byte: u8) -> u8 {
    byte << 1 ^ if byte & 0x80 == 0 { 0 } else { POLYNOMIAL }
}

/// Logarithm of `element`, which is not 0.
fn log(element: u8) -> u32 {
    debug_assert!(element != 0, "points differ");
    TABLES.0[usize::from(element)].into()
}

fn power(exponent: u32) -> u8 {
    TABLES.1[(exponent % ORDER) as usize]
}

/// Logarithms by element, and elements by logarithm.
static TABLES: ([u8; 256], [u8; ORDER as usize]) = {
    let (mut logs, mut powers) = ([0; 256], [0; ORDER as usize]);
    let mut element = 1;
    let mut exponent = 0;
    while exponent < ORDER as usize {
        logs[element as usize] = exponent as u8;
        powers[exponent] = element;
        element = double(element);
        exponent += 1;
    }
    (logs, powers)
};
