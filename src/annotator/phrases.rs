//! Captions as things: a rough chunker that knows function words and nothing else of grammar.

/// Words of a caption that are read; what follows is left alone.
const WORDS_MAX: usize = 64;
/// Words of a thing that are kept, from its end, where the noun is.
const THING_WORDS_MAX: usize = 5;

/// A thing that a caption names, with the function words around it: "in front of" (`before`),
/// "a", ["blue", "square"], "in a row" (`after`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Thing {
    /// The preposition, or none.
    pub before: String,
    /// The determiner as it was, or none.
    pub article: String,
    /// Lower-case unless in the middle of a caption; never empty.
    pub words: Vec<String>,
    /// What is said of it after its name: "running", "in a row".
    pub after: String,
}

impl Thing {
    /// What tells it from other things.
    pub fn key(&self) -> Vec<String> {
        self.words.iter().map(|w| w.to_lowercase()).collect()
    }

    /// Its noun.
    pub fn head(&self) -> &str {
        self.words.last().map_or("", |w| w.as_str())
    }

    /// As it was: "a blue square", "three circles", "snow".
    pub fn indefinite(&self) -> String {
        match self.article.as_str() {
            "" => self.words.join(" "),
            article if ["a", "an"].contains(&article) => {
                // Cutting a long name may have moved the vowel.
                let vowel = self.words[0].to_lowercase().starts_with(['a', 'e', 'i', 'o', 'u']);
                let cut = self.words.len() == THING_WORDS_MAX;
                let article = if cut && !vowel { "a" } else { article };
                format!("{article} {}", self.words.join(" "))
            }
            article => format!("{article} {}", self.words.join(" ")),
        }
    }

    /// Its words without a number: what kind of thing it is.
    pub fn kind(&self) -> &[String] {
        match &self.words[..] {
            [number, rest @ ..] if is_number(number) && !rest.is_empty() => rest,
            all => all,
        }
    }

    /// Without article and number: "blue square", for "no …".
    pub fn bare(&self) -> String {
        self.kind().join(" ")
    }

    /// "the blue square", but "snow" and "Paris" as they are.
    pub fn definite(&self) -> String {
        let the = if self.article.is_empty() && !self.plural() { "" } else { "the " };
        format!("{the}{}", self.words.join(" "))
    }

    /// Whether its noun is a plural, as far as spelling tells.
    pub fn plural(&self) -> bool {
        let head = self.head();
        self.kind().len() < self.words.len()
            || head.ends_with('s') && !head.ends_with("ss") && !head.ends_with("us")
    }
}

/// The things of a caption, in order. Empty for a caption of function words only.
pub(super) fn things(caption: &str) -> Vec<Thing> {
    let mut things: Vec<Thing> = Vec::new();
    let mut link: Vec<String> = Vec::new();
    let mut open: Option<Thing> = None;
    let mut article = String::new();
    let tokens = tokens(caption);
    for (i, token) in tokens.iter().enumerate() {
        let lower = token.to_lowercase();
        let next = tokens.get(i + 1).map(|t| t.to_lowercase()).unwrap_or_default();
        let arranged = ARRANGEMENTS.contains(&lower.as_str()) && !link.is_empty();
        if token == "," || token == "." {
            things.extend(open.take());
            if !link.is_empty() {
                settle(&mut things, std::mem::take(&mut link), false);
            }
            article.clear();
        } else if ARTICLES.contains(&lower.as_str()) && !(lower == "one" && next == "above") {
            things.extend(open.take());
            article = lower;
        } else if arranged || is_link(&lower) || is_verb(&lower) && article.is_empty() {
            things.extend(open.take());
            if !article.is_empty() {
                link.push(std::mem::take(&mut article));
            }
            link.push(lower);
        } else if let Some(thing) = &mut open {
            thing.words.push(token.clone());
        } else {
            let before = settle(&mut things, std::mem::take(&mut link), true);
            let first = if i == 0 || tokens[i - 1] == "." { lower } else { token.clone() };
            let article = std::mem::take(&mut article);
            open = Some(Thing { before, article, words: vec![first], after: String::new() });
        }
    }
    things.extend(open.take());
    settle(&mut things, link, false);
    things.retain(|thing| !PICTURES.contains(&thing.head()) || thing.words.len() > 2);
    for thing in &mut things {
        let excess = thing.words.len().saturating_sub(THING_WORDS_MAX);
        thing.words.drain(..excess);
    }
    things
}

/// Splits function words into what is said of the thing before them, which is put there, and the
/// preposition of the thing that comes, which is returned.
fn settle(things: &mut [Thing], link: Vec<String>, more: bool) -> String {
    let text = link.join(" ");
    let long = LONG_PREPOSITIONS.iter().filter(|_| more).find(|p| text.ends_with(**p));
    let last = link.last().filter(|w| more && PREPOSITIONS.contains(&w.as_str()));
    let before = match (long, last) {
        (Some(long), _) => (*long).to_owned(),
        (None, Some(word)) => word.clone(),
        (None, None) => String::new(),
    };
    let said = text[..text.len() - before.len()].trim();
    let said = said.trim_start_matches("and ").trim_end_matches(" and");
    // "holding a ball" is said of who holds it, and that is rarely the thing before.
    let transitive = more && before.is_empty() && link.last().is_some_and(|w| is_verb(w));
    let idle = transitive || IDLE.contains(&said);
    if let Some(thing) = things.last_mut().filter(|_| !idle) {
        thing.after = said.to_owned();
    }
    before
}

/// Words, with "," and "." where a part or a sentence ends.
fn tokens(caption: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    for raw in caption.split_whitespace().take(WORDS_MAX) {
        let word = raw.trim_matches(|c: char| !c.is_alphanumeric());
        if !word.is_empty() {
            tokens.push(word.to_owned());
        }
        match raw.chars().last() {
            Some('.' | '!' | '?') => tokens.push(".".into()),
            Some(',' | ';' | ':' | ')') => tokens.push(",".into()),
            _ => {}
        }
    }
    tokens
}

fn is_link(word: &str) -> bool {
    PREPOSITIONS.contains(&word) || LINKS.contains(&word)
}

/// "running", which is an adjective after an article ("a fading background").
fn is_verb(word: &str) -> bool {
    word.len() > 5 && word.ends_with("ing") && !NOUNS_IN_ING.contains(&word)
}

fn is_number(word: &str) -> bool {
    NUMBERS.contains(&word) || word.bytes().all(|b| b.is_ascii_digit())
}

/// Words for numbers from two to twelve.
const NUMBERS: [&str; 11] =
    ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];
const ARTICLES: [&str; 16] = [
    "a", "an", "the", "this", "that", "these", "those", "some", "his", "her", "its", "their",
    "our", "your", "my", "another",
];
const PICTURES: [&str; 7] =
    ["picture", "photo", "photograph", "image", "scene", "drawing", "illustration"];
const ARRANGEMENTS: [&str; 8] =
    ["row", "rows", "grid", "diagonal", "line", "stack", "pile", "group"];
const LONG_PREPOSITIONS: [&str; 12] = [
    "to the left of",
    "to the right of",
    "in front of",
    "on top of",
    "on the left of",
    "on the right of",
    "next to",
    "close to",
    "left of",
    "right of",
    "inside of",
    "out of",
];
const PREPOSITIONS: [&str; 36] = [
    "on",
    "in",
    "at",
    "of",
    "with",
    "without",
    "under",
    "above",
    "below",
    "over",
    "by",
    "near",
    "beside",
    "behind",
    "between",
    "among",
    "around",
    "inside",
    "outside",
    "into",
    "onto",
    "through",
    "across",
    "along",
    "against",
    "beneath",
    "underneath",
    "from",
    "to",
    "for",
    "towards",
    "toward",
    "during",
    "before",
    "after",
    "beyond",
];
const LINKS: [&str; 43] = [
    "and",
    "or",
    "but",
    "while",
    "as",
    "is",
    "are",
    "was",
    "were",
    "be",
    "being",
    "has",
    "have",
    "had",
    "there",
    "it",
    "he",
    "she",
    "they",
    "who",
    "which",
    "where",
    "left",
    "right",
    "top",
    "bottom",
    "front",
    "next",
    "close",
    "other",
    "one",
    "about",
    "scattered",
    "up",
    "down",
    "off",
    "out",
    "seen",
    "sits",
    "stands",
    "lies",
    "wears",
    "holds",
];
const NOUNS_IN_ING: [&str; 16] = [
    "building",
    "painting",
    "ceiling",
    "clothing",
    "evening",
    "morning",
    "wedding",
    "railing",
    "awning",
    "lightning",
    "string",
    "spring",
    "crossing",
    "drawing",
    "striking",
    "nothing",
];
/// Links that say nothing of the thing before them.
const IDLE: [&str; 12] = [
    "",
    "and",
    "or",
    "but",
    "is",
    "are",
    "there is",
    "there are",
    "while",
    "as",
    "and there is",
    "it is",
];
