//! What is left of a JSON message that is too long to be kept: enough to tell whom it concerns.
//!
//! It is read byte by byte as it comes, and only its first two levels are written down: names, numbers
//! and short texts. What lies deeper is left out, long texts are empty, and of an object with very many
//! members only the first are kept. So what comes last is found as what comes first, and none of it
//! takes memory.

/// A text of more bytes is left out.
const TEXT: usize = 256;
/// So many bytes of an object are kept, on the first level and on the second.
const KEPT: [usize; 2] = [6 << 10, 2 << 10];

/// Reads a message in pieces, and keeps its outline.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outline {
    out: Vec<u8>,
    /// How many objects and arrays are open.
    depth: usize,
    /// For each level that is kept: where its object begins, and where its last whole member ends.
    levels: [(usize, usize); 2],
    text: Option<Text>,
    /// What follows is left out until so many are open again; then this is written.
    left_out: Option<(usize, &'static [u8])>,
    is_over: bool,
}

/// In the middle of a text.
#[derive(Clone, Copy, Debug, Default)]
struct Text {
    begin: usize,
    is_escaped: bool,
    is_long: bool,
}

impl Outline {
    /// Reads on.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.is_over {
                return;
            }
            match self.text {
                Some(text) => self.in_text(text, *byte),
                None => self.outside(*byte),
            }
        }
    }

    /// What was kept: JSON, if the message was an object, and whole.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.out
    }

    fn in_text(&mut self, mut text: Text, byte: u8) {
        let ends = byte == b'"' && !text.is_escaped;
        text.is_escaped = byte == b'\\' && !text.is_escaped;
        self.text = (!ends).then_some(text);
        if self.left_out.is_some() {
            return;
        }
        if ends && text.is_long {
            self.out.extend_from_slice(b"\"\"");
        } else if !text.is_long {
            self.out.push(byte);
            if !ends && self.out.len() - text.begin > TEXT {
                self.out.truncate(text.begin);
                self.text = Some(Text { is_long: true, ..text });
            }
        }
    }

    fn outside(&mut self, byte: u8) {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => {}
            // A message begins with its object, or it has no outline.
            _ if self.depth == 0 && byte != b'{' => self.is_over = true,
            b'"' => {
                self.text = Some(Text { begin: self.out.len(), ..Text::default() });
                self.write(byte);
            }
            b'{' | b'[' => self.opens(byte),
            b'}' | b']' => self.closes(byte),
            b',' => {
                if self.left_out.is_none() {
                    self.levels[self.depth - 1].1 = self.out.len();
                }
                self.write(byte);
            }
            _ => self.write(byte),
        }
    }

    fn opens(&mut self, byte: u8) {
        let is_kept = byte == b'{' && self.depth < KEPT.len();
        if self.left_out.is_none() {
            if is_kept {
                self.levels[self.depth] = (self.out.len(), self.out.len() + 1);
                self.out.push(byte);
            } else {
                self.left_out = Some((self.depth, b"null"));
            }
        }
        self.depth += 1;
    }

    fn closes(&mut self, byte: u8) {
        self.depth -= 1;
        match self.left_out {
            None => self.out.push(byte),
            Some((depth, instead)) if depth == self.depth => {
                self.left_out = None;
                self.out.extend_from_slice(instead);
            }
            Some(_) => {}
        }
        self.is_over = self.depth == 0;
    }

    fn write(&mut self, byte: u8) {
        if self.left_out.is_some() {
            return;
        }
        self.out.push(byte);
        let level = self.depth - 1;
        let (begin, whole) = self.levels[level];
        if self.out.len() - begin > KEPT[level] {
            self.out.truncate(whole);
            self.left_out = Some((level, b"}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn outline(message: &str, piece: usize) -> Vec<u8> {
        let mut outline = Outline::default();
        message.as_bytes().chunks(piece).for_each(|piece| outline.take(piece));
        outline.finish()
    }

    #[test]
    fn names_and_short_values_of_two_levels_are_kept_wherever_they_stand_and_however_it_is_cut() {
        let long = "\\\"}{".repeat(500);
        let message = format!(
            r#" {{"context": {{"a": [1, {{"b": "]"}}], "{long}": "{long}", "c": -2.5e1}}, "x": [{{}}],
               "data": {{"id": "{{\"\\", "deep": {{"er": {{}}}}}}, "none": null, "session_id": "s"}} rest"#
        );
        let expected = json!({
            "context": {"a": null, "": "", "c": -25.0}, "x": null,
            "data": {"id": "{\"\\", "deep": null}, "none": null, "session_id": "s",
        });
        for piece in [1, 2, 3, 7, message.len()] {
            let told: Value = serde_json::from_slice(&outline(&message, piece)).unwrap();
            assert_eq!(told, expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn of_very_many_members_the_first_are_kept_and_what_comes_after_them_too() {
        let many: Vec<String> = (0..100_000).map(|n| format!(r#""m{n}":{n}"#)).collect();
        let message = format!(r#"{{"data":{{"id":"7",{}}},"session_id":"s"}}"#, many.join(","));
        let kept = outline(&message, 1000);
        assert!(kept.len() < 3000, "{}", kept.len());
        let told: Value = serde_json::from_slice(&kept).unwrap();
        assert_eq!((&told["data"]["id"], &told["session_id"]), (&json!("7"), &json!("s")));
        let kept = outline(&format!("{{{}}}", many.join(",")), 1000);
        assert!(kept.len() < 7000, "{}", kept.len());
        let told: Value = serde_json::from_slice(&kept).unwrap();
        assert_eq!(told["m7"], 7);
    }

    #[test]
    fn what_is_no_object_has_no_outline() {
        for message in ["", "server is busy", "[{\"a\":1}]", "}}", "\"text\"", "{\"a\":1", "{]}["] {
            let kept = outline(message, 1);
            assert!(serde_json::from_slice::<Value>(&kept).is_err(), "{message}");
        }
        let endless = format!("{{\"a\":{}", "1".repeat(100_000));
        assert!(outline(&endless, 999).len() <= KEPT[0]);
    }
}
