//! Names that others give to what is said about an image, and what they become here.

use clap::Args;
use serde_json::{Map, Value};

/// Which column, or JSON field, holds what; by default the first of the usual names that is there,
/// upper or lower case.
#[derive(Args, Clone, Debug, Default)]
pub struct Columns {
    /// The column of image bytes: binary, or a struct of bytes and path. By default image, jpg,
    /// jpeg, png, webp, img, image_bytes, bytes, photo; else the only one of such a type.
    #[arg(long, value_name = "NAME")]
    pub image_column: Option<String>,
    /// The column of image ids. By default image_id, id, key, __key__, uid; else the sha256 of the
    /// bytes is the id.
    #[arg(long, value_name = "NAME")]
    pub id_column: Option<String>,
    /// The column of captions. By default caption, text, alt_text, alt, description, title.
    #[arg(long, value_name = "NAME")]
    pub caption_column: Option<String>,
    /// The column of addresses. By default url, uri, image_url.
    #[arg(long, value_name = "NAME")]
    pub uri_column: Option<String>,
    /// The column of sources. By default source, dataset.
    #[arg(long, value_name = "NAME")]
    pub source_column: Option<String>,
    /// The column of licences. By default licence, license.
    #[arg(long, value_name = "NAME")]
    pub licence_column: Option<String>,
}

pub const IMAGE: [&str; 9] =
    ["image", "jpg", "jpeg", "png", "webp", "img", "image_bytes", "bytes", "photo"];
pub const ID: [&str; 5] = ["image_id", "id", "key", "__key__", "uid"];
pub const CAPTION: [&str; 6] = ["caption", "text", "alt_text", "alt", "description", "title"];
pub const URI: [&str; 3] = ["url", "uri", "image_url"];
pub const SOURCE: [&str; 2] = ["source", "dataset"];
pub const LICENCE: [&str; 2] = ["licence", "license"];

/// What fields say of an image.
#[derive(Debug, Default)]
pub struct Said {
    pub id: Option<String>,
    pub caption: Option<String>,
    pub uri: Option<String>,
    pub source: Option<String>,
    pub licence: Option<String>,
    /// All other fields that are not null.
    pub rest: Map<String, Value>,
}

/// The name under which something is, of those that are there: the chosen one, or the first of the
/// usual ones.
pub fn name_of<'a>(
    there: impl Iterator<Item = &'a str> + Clone,
    chosen: Option<&str>,
    usual: &[&str],
) -> Option<String> {
    if let Some(chosen) = chosen {
        return there.clone().find(|name| *name == chosen).map(str::to_owned);
    }
    let first = |known: &&str| there.clone().find(|name| name.eq_ignore_ascii_case(known));
    usual.iter().find_map(first).map(str::to_owned)
}

/// Removes a field by its name and gives its text; none if it is null or blank.
pub fn text(
    fields: &mut Map<String, Value>,
    chosen: Option<&str>,
    usual: &[&str],
) -> Result<Option<String>, String> {
    let Some(name) = name_of(fields.keys().map(String::as_str), chosen, usual) else {
        return Ok(None);
    };
    let text = match fields.remove(&name) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text),
        Some(Value::Number(number)) => Some(number.to_string()),
        // Of several captions the first is the caption; all of them are kept beside it.
        Some(Value::Array(several)) => match several.first() {
            None => None,
            Some(Value::String(first)) => {
                let first = first.clone();
                fields.insert(format!("column.{name}"), Value::Array(several));
                Some(first)
            }
            Some(_) => return Err(format!("{name}: must be text")),
        },
        Some(_) => return Err(format!("{name}: must be text")),
    };
    Ok(text.filter(|text| !text.trim().is_empty()))
}

/// Sorts fields.
pub fn take(mut fields: Map<String, Value>, columns: &Columns) -> Result<Said, String> {
    let mut of =
        |chosen: &Option<String>, usual: &[&str]| text(&mut fields, chosen.as_deref(), usual);
    let said = Said {
        id: of(&columns.id_column, &ID)?,
        caption: of(&columns.caption_column, &CAPTION)?,
        uri: of(&columns.uri_column, &URI)?,
        source: of(&columns.source_column, &SOURCE)?,
        licence: of(&columns.licence_column, &LICENCE)?,
        rest: Map::new(),
    };
    let rest = fields.into_iter().filter(|(_, value)| !value.is_null() && *value != "");
    Ok(Said { rest: rest.collect(), ..said })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(json: &str) -> Map<String, Value> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn usual_names_in_their_order_and_the_rest_is_kept() {
        let fields = object(
            r#"{"TEXT": "t", "Caption": "c", "url": "u", "key": 7, "license": " ", "width": 3,
                "none": null}"#,
        );
        let said = take(fields, &Columns::default()).unwrap();
        assert_eq!((said.caption.as_deref(), said.uri.as_deref()), (Some("c"), Some("u")));
        assert_eq!((said.id.as_deref(), said.licence), (Some("7"), None));
        assert_eq!(said.rest, object(r#"{"TEXT": "t", "width": 3}"#));
    }

    #[test]
    fn a_chosen_name_goes_before_and_is_exact() {
        let columns = Columns { caption_column: Some("alt".into()), ..Columns::default() };
        let said = take(object(r#"{"alt": "a", "caption": "c"}"#), &columns).unwrap();
        assert_eq!(said.caption.as_deref(), Some("a"));
        assert_eq!(said.rest, object(r#"{"caption": "c"}"#));
        let said = take(object(r#"{"ALT": "a"}"#), &columns).unwrap();
        assert_eq!(said.caption, None);
    }

    #[test]
    fn several_captions_and_what_is_no_text() {
        let said = take(object(r#"{"caption": ["a", "b"]}"#), &Columns::default()).unwrap();
        assert_eq!(said.caption.as_deref(), Some("a"));
        assert_eq!(said.rest, object(r#"{"column.caption": ["a", "b"]}"#));
        assert!(take(object(r#"{"caption": {"en": "a"}}"#), &Columns::default()).is_err());
    }
}
