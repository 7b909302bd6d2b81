//! JSON (RFC 8259), as much as the wire protocol needs: a value, a strict reader, a writer.

use std::fmt::{self, Display, Formatter, Write};

/// How deeply a text may nest; the reader calls itself once for each level.
const DEEPEST: usize = 128;

#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    Number(f64),
    String(String),
    Array(Vec<Json>),
    /// In the order of the text.
    Object(Vec<(String, Json)>),
}

impl Json {
    pub fn object<const N: usize>(members: [(&str, Json); N]) -> Json {
        Json::Object(members.map(|(name, value)| (name.to_string(), value)).into())
    }

    /// A member of an object; null where there is no such member, or no object.
    pub fn get(&self, name: &str) -> &Json {
        match self {
            Json::Object(members) => {
                members.iter().find(|(known, _)| known == name).map_or(&Json::Null, |(_, value)| value)
            }
            _ => &Json::Null,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Json::String(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Json::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// Reads a whole text.
    pub fn parse(text: &str) -> Result<Json, String> {
        let mut reader = Reader { text, at: 0 };
        let value = reader.value(0)?;
        reader.blanks();
        if reader.at < text.len() {
            return Err(reader.wrong("the end"));
        }
        Ok(value)
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Json {
        Json::String(text.to_string())
    }
}

impl From<bool> for Json {
    fn from(value: bool) -> Json {
        Json::Bool(value)
    }
}

impl From<u32> for Json {
    fn from(number: u32) -> Json {
        Json::Number(number.into())
    }
}

/// Writes a value on one line.
impl Display for Json {
    fn fmt(&self, out: &mut Formatter) -> fmt::Result {
        match self {
            Json::Null => out.write_str("null"),
            Json::Bool(value) => write!(out, "{value}"),
            Json::Number(number) => write!(out, "{number}"),
            Json::String(text) => quote(text, out),
            Json::Array(values) => {
                out.write_char('[')?;
                for (index, value) in values.iter().enumerate() {
                    write!(out, "{}{value}", if index > 0 { "," } else { "" })?;
                }
                out.write_char(']')
            }
            Json::Object(members) => {
                out.write_char('{')?;
                for (index, (name, value)) in members.iter().enumerate() {
                    out.write_str(if index > 0 { "," } else { "" })?;
                    quote(name, out)?;
                    write!(out, ":{value}")?;
                }
                out.write_char('}')
            }
        }
    }
}

fn quote(text: &str, out: &mut Formatter) -> fmt::Result {
    out.write_char('"')?;
    for character in text.chars() {
        match character {
            '"' => out.write_str("\\\"")?,
            '\\' => out.write_str("\\\\")?,
            control if control < ' ' => write!(out, "\\u{:04x}", control as u32)?,
            other => out.write_char(other)?,
        }
    }
    out.write_char('"')
}

struct Reader<'text> {
    text: &'text str,
    /// In bytes, always at the beginning of a character.
    at: usize,
}

impl Reader<'_> {
    fn wrong(&self, wanted: &str) -> String {
        format!("expected {wanted} at byte {}", self.at)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Passes over `token` after blanks; whether it was there.
    fn takes(&mut self, token: &str) -> bool {
        self.blanks();
        let there = self.text[self.at..].starts_with(token);
        self.at += if there { token.len() } else { 0 };
        there
    }

    fn value(&mut self, depth: usize) -> Result<Json, String> {
        if depth > DEEPEST {
            return Err(format!("nested deeper than {DEEPEST} levels"));
        }
        for (token, value) in [("null", Json::Null), ("true", Json::Bool(true)), ("false", Json::Bool(false))] {
            if self.takes(token) {
                return Ok(value);
            }
        }
        if self.takes("[") {
            return self.array(depth);
        }
        if self.takes("{") {
            return self.object(depth);
        }
        if self.takes("\"") {
            return self.string().map(Json::String);
        }
        self.number()
    }

    fn array(&mut self, depth: usize) -> Result<Json, String> {
        let mut values = Vec::new();
        if self.takes("]") {
            return Ok(Json::Array(values));
        }
        loop {
            values.push(self.value(depth + 1)?);
            if self.takes("]") {
                return Ok(Json::Array(values));
            }
            if !self.takes(",") {
                return Err(self.wrong("',' or ']'"));
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json, String> {
        let mut members = Vec::new();
        if self.takes("}") {
            return Ok(Json::Object(members));
        }
        loop {
            if !self.takes("\"") {
                return Err(self.wrong("a name"));
            }
            let name = self.string()?;
            if !self.takes(":") {
                return Err(self.wrong("':'"));
            }
            members.push((name, self.value(depth + 1)?));
            if self.takes("}") {
                return Ok(Json::Object(members));
            }
            if !self.takes(",") {
                return Err(self.wrong("',' or '}'"));
            }
        }
    }

    fn number(&mut self) -> Result<Json, String> {
        let rest = &self.text[self.at..];
        let end = rest.find(|c: char| !matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E')).unwrap_or(rest.len());
        let token = &rest[..end];
        let digits = token.strip_prefix('-').unwrap_or(token);
        let whole = digits.split(['.', 'e', 'E']).next().unwrap_or("");
        // What Rust reads as a number and JSON does not: "+1", "1.", ".5", "01".
        let strict = digits.starts_with(|c: char| c.is_ascii_digit())
            && (whole.len() == 1 || !whole.starts_with('0'))
            && !digits.ends_with('.')
            && !digits.contains(".e")
            && !digits.contains(".E");
        match token.parse::<f64>() {
            Ok(number) if strict && number.is_finite() => {
                self.at += end;
                Ok(Json::Number(number))
            }
            _ => Err(self.wrong("a value")),
        }
    }

    /// The rest of a string whose quote was passed.
    fn string(&mut self) -> Result<String, String> {
        let mut text = String::new();
        loop {
            let Some(character) = self.text[self.at..].chars().next() else {
                return Err(self.wrong("'\"'"));
            };
            if character < ' ' {
                return Err(self.wrong("no control character"));
            }
            self.at += character.len_utf8();
            match character {
                '"' => return Ok(text),
                '\\' => text.push(self.escaped()?),
                other => text.push(other),
            }
        }
    }

    fn escaped(&mut self) -> Result<char, String> {
        let Some(kind) = self.peek() else { return Err(self.wrong("an escape")) };
        let plain = match kind {
            b'"' | b'\\' | b'/' => kind as char,
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                self.at += 1;
                return self.unicode();
            }
            _ => return Err(self.wrong("an escape")),
        };
        self.at += 1;
        Ok(plain)
    }

    fn unicode(&mut self) -> Result<char, String> {
        let first = self.hex()?;
        if !(0xd800..0xdc00).contains(&first) {
            // Half of a pair alone is no character; Python can send one.
            return Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        if self.text[self.at..].starts_with("\\u") {
            let begin = self.at;
            self.at += 2;
            let second = self.hex()?;
            if (0xdc00..0xe000).contains(&second) {
                let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            // It stands for itself.
            self.at = begin;
        }
        Ok(char::REPLACEMENT_CHARACTER)
    }

    fn hex(&mut self) -> Result<u32, String> {
        let digits = self.text.get(self.at..self.at + 4).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let code =
            digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()).ok_or(self.wrong("four hex digits"))?;
        self.at += 4;
        Ok(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back() {
        let value = Json::object([
            ("text", Json::from("a \"quote\", a \\, a line\nbreak, \u{1}, ä and 🦀")),
            ("numbers", Json::Array(vec![Json::from(0), Json::Number(-1.5e-7), Json::Number(1e300)])),
            ("nothing", Json::Null),
            ("yes", Json::from(true)),
            ("empty", Json::Array(vec![Json::Array(vec![]), Json::Object(vec![])])),
        ]);
        let text = value.to_string();
        assert!(!text.contains('\n'));
        assert_eq!(Json::parse(&text), Ok(value));
    }

    #[test]
    fn blanks_may_stand_between_the_tokens() {
        let read = Json::parse(" { \"a\" : [ 1 ,\t2 ] , \"b\" : null } \r\n");
        assert_eq!(read.map(|value| value.to_string()), Ok("{\"a\":[1,2],\"b\":null}".to_string()));
    }

    #[test]
    fn escapes_are_read() {
        let read = Json::parse(r#""\"\\\/\b\f\n\r\t\u00e4\ud83e\udd80""#);
        assert_eq!(read, Ok(Json::from("\"\\/\u{8}\u{c}\n\r\tä🦀")));
    }

    #[test]
    fn half_a_surrogate_pair_is_replaced() {
        assert_eq!(Json::parse(r#""\ud83e!""#), Ok(Json::from("\u{fffd}!")));
        assert_eq!(Json::parse(r#""\udd80""#), Ok(Json::from("\u{fffd}")));
        assert_eq!(Json::parse(r#""\ud83e\n""#), Ok(Json::from("\u{fffd}\n")));
        assert_eq!(Json::parse(r#""\ud83e\u0041""#), Ok(Json::from("\u{fffd}A")));
    }

    #[test]
    fn what_is_no_json_is_refused() {
        #[rustfmt::skip]
        let texts = [
            "", " ", "nul", "truefalse", "tru e", "01", "+1", "1.", ".5", "1e", "1.e5", "1e999", "-", "NaN", "[1,]",
            "[1 2]", "[", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{a:1}", "\"", "\"\\x\"", "\"\\u12\"", "\"\\u+123\"",
            "\"\\u12ä\"", "\"a\nb\"", "1 2", "{} x", "'a'",
        ];
        for text in texts {
            assert!(Json::parse(text).is_err(), "{text:?} was read as {:?}", Json::parse(text));
        }
    }

    #[test]
    fn a_text_that_nests_without_end_is_refused() {
        assert!(Json::parse(&"[".repeat(1_000_000)).is_err());
        assert!(Json::parse(&format!("{}{}", "[".repeat(100), "]".repeat(100))).is_ok());
    }

    #[test]
    fn a_member_that_is_not_there_is_null() {
        let value = Json::object([("a", Json::object([("b", Json::from("deep"))]))]);
        assert_eq!(value.get("a").get("b").as_str(), Some("deep"));
        assert_eq!(value.get("x").get("y"), &Json::Null);
        assert_eq!(Json::from(1).get("a"), &Json::Null);
    }
}
