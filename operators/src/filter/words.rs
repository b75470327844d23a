//! Words of a text, as the rules count and compare them.

/// Lower-case words without punctuation. A letter of a script that sets no spaces (Han, kana) is
/// a word, so that lengths and overlaps mean something there too.
pub(super) struct Words {
    /// All of them, one behind the other.
    text: String,
    /// Where each ends.
    ends: Vec<usize>,
}

impl Words {
    pub(super) fn of(text: &str) -> Words {
        let mut words = Words { text: String::with_capacity(text.len()), ends: Vec::new() };
        for c in text.chars() {
            if c.is_ascii() {
                words.take(c.to_ascii_lowercase());
            } else {
                c.to_lowercase().for_each(|c| words.take(c));
            }
        }
        words.end();
        words
    }

    fn begin(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    fn take(&mut self, c: char) {
        let spaceless = matches!(c, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}');
        let apostrophe = matches!(c, '\'' | '’') && self.text.len() > self.begin();
        if c.is_alphanumeric() && !spaceless {
            self.text.push(c);
        } else if apostrophe {
            self.text.push('\'');
        } else {
            self.end();
            if spaceless {
                self.text.push(c);
                self.ends.push(self.text.len());
            }
        }
    }

    fn end(&mut self) {
        let word = self.text[self.begin()..].trim_end_matches('\'').len();
        self.text.truncate(self.begin() + word);
        if word > 0 {
            self.ends.push(self.text.len());
        }
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The word at a place; past the last one there is an empty one.
    pub(super) fn get(&self, at: usize) -> &str {
        let Some(&end) = self.ends.get(at) else { return "" };
        let begin = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.text[begin..end]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|at| self.get(at))
    }

    pub(super) fn begins(&self, from: usize, phrase: &[&str]) -> bool {
        phrase.iter().enumerate().all(|(i, word)| is(self.get(from + i), word))
    }
}

/// Whether the two are one word; most are seen not to be by their first letters.
pub(super) fn is(a: &str, b: &str) -> bool {
    a.as_bytes().first() == b.as_bytes().first() && a == b
}
