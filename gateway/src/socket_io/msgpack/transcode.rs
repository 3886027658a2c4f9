//! MessagePack values become JSON text and attachments, token by token.

use std::io::Write as _;

use bytes::Bytes;
use twinlane::events::Payload;

use super::read::{Reader, Token};
use crate::socket_io::{ATTACHMENTS_MAX, DEPTH_MAX, DecodeError};
use twinlane::events::json::PLACEHOLDER;

/// Reads one value. Attachments share `packet`'s memory, which `reader` must be reading.
///
/// What JSON lacks becomes what `JSON.stringify` makes of it: `undefined`, NaN and the infinities `null`, dates text.
pub(super) fn to_json(
    reader: &mut Reader<'_>,
    packet: &Bytes,
    json_bytes_max: usize,
) -> Result<Payload, DecodeError> {
    let mut json = Json { packet, json_bytes_max, text: Vec::new(), attachments: Vec::new() };
    json.value(reader, DEPTH_MAX)?;
    Ok(Payload { json: json.text.into(), attachments: json.attachments })
}

struct Json<'a> {
    packet: &'a Bytes,
    json_bytes_max: usize,
    text: Vec<u8>,
    attachments: Vec<Bytes>,
}

impl Json<'_> {
    fn value(&mut self, reader: &mut Reader<'_>, depth_left: usize) -> Result<(), DecodeError> {
        match reader.token()? {
            Token::Nil | Token::Undefined => self.put(b"null"),
            Token::Bool(true) => self.put(b"true"),
            Token::Bool(false) => self.put(b"false"),
            Token::Unsigned(number) => self.put_serialized(&number),
            Token::Signed(number) => self.put_serialized(&number),
            Token::Float(number) => self.put_serialized(&number),
            Token::Text(text) => self.put_serialized(text),
            Token::Date(milliseconds) => self.put_date(milliseconds),
            Token::Bytes(bytes) => self.put_attachment(bytes),
            Token::Array(values) => self.array(reader, values, deeper(depth_left)?),
            Token::Map(entries) => self.object(reader, entries, deeper(depth_left)?),
        }
    }

    fn array(&mut self, reader: &mut Reader<'_>, values: u32, depth_left: usize) -> Result<(), DecodeError> {
        self.put(b"[")?;
        for index in 0..values {
            if index > 0 {
                self.put(b",")?;
            }
            self.value(reader, depth_left)?;
        }
        self.put(b"]")
    }

    fn object(
        &mut self,
        reader: &mut Reader<'_>,
        entries: u32,
        depth_left: usize,
    ) -> Result<(), DecodeError> {
        self.put(b"{")?;
        for index in 0..entries {
            if index > 0 {
                self.put(b",")?;
            }
            let Token::Text(key) = reader.token()? else { return Err(reader.wrong("a key is not a text")) };
            // Nobody else may make what stands for attachments in JSON.
            if key == PLACEHOLDER && reader.clone().token()? == Token::Bool(true) {
                return Err(DecodeError::Placeholder);
            }
            self.put_serialized(key)?;
            self.put(b":")?;
            self.value(reader, depth_left)?;
        }
        self.put(b"}")
    }

    fn put_attachment(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        let number = self.attachments.len();
        if number == ATTACHMENTS_MAX {
            return Err(DecodeError::Attachments { attachments_max: ATTACHMENTS_MAX });
        }
        self.attachments.push(self.packet.slice_ref(bytes));
        write!(self.text, "{{\"{PLACEHOLDER}\":true,\"num\":{number}}}").expect("memory takes everything");
        self.check_bytes()
    }

    /// As `Date.toISOString` writes it.
    fn put_date(&mut self, milliseconds: i64) -> Result<(), DecodeError> {
        if milliseconds.unsigned_abs() > DATE_MS_MAX {
            return self.put(b"null");
        }
        let (days, in_day) = (milliseconds.div_euclid(DAY_MS), milliseconds.rem_euclid(DAY_MS));
        let (year, month, day) = civil(days);
        let (hour, minute) = (in_day / 3_600_000, in_day / 60_000 % 60);
        let (second, millisecond) = (in_day / 1_000 % 60, in_day % 1_000);
        let written = if (0..=9_999).contains(&year) {
            write!(self.text, "\"{year:04}")
        } else {
            write!(self.text, "\"{year:+07}")
        };
        let rest = format_args!("-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z\"");
        written.and_then(|()| self.text.write_fmt(rest)).expect("memory takes everything");
        self.check_bytes()
    }

    fn put_serialized(&mut self, value: &(impl serde::Serialize + ?Sized)) -> Result<(), DecodeError> {
        serde_json::to_writer(&mut self.text, value).expect("numbers and texts can be written to memory");
        self.check_bytes()
    }

    fn put(&mut self, text: &[u8]) -> Result<(), DecodeError> {
        self.text.extend_from_slice(text);
        self.check_bytes()
    }

    /// No value is more than six times as long in JSON, so this is in time.
    fn check_bytes(&self) -> Result<(), DecodeError> {
        let (bytes, bytes_max) = (self.text.len(), self.json_bytes_max);
        if bytes <= bytes_max { Ok(()) } else { Err(DecodeError::TooLarge { bytes, bytes_max }) }
    }
}

fn deeper(depth_left: usize) -> Result<usize, DecodeError> {
    depth_left.checked_sub(1).ok_or(DecodeError::TooDeep { depth_max: DEPTH_MAX })
}

const DAY_MS: i64 = 86_400_000;
/// Dates of JavaScript end here, on both sides of 1970.
const DATE_MS_MAX: u64 = 8_640_000_000_000_000;

/// Year, month and day of the day `days` after 1970-01-01, in the Gregorian calendar.
fn civil(days: i64) -> (i64, i64, i64) {
    // Years that begin on 1 March have the leap day at their end; 400 of them always have 146,097 days.
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let months_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * months_from_march + 2) / 5 + 1;
    let month = if months_from_march < 10 { months_from_march + 3 } else { months_from_march - 9 };
    (400 * era + year_of_era + i64::from(month <= 2), month, day)
}
