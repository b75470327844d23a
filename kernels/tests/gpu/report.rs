//! Figures, as a table for people and as JSON for files.

use std::fmt::Write;

/// One measured rate, and what it is a share of.
pub struct Figure {
    pub name: String,
    pub value: f64,
    pub unit: &'static str,
    pub of: Option<(String, f64)>,
}

/// Every figure of one device.
#[derive(Default)]
pub struct Report {
    pub device: String,
    /// cuBLASLt's own version number.
    pub cublaslt: Option<usize>,
    pub figures: Vec<Figure>,
    /// What was measured otherwise than meant, and why.
    pub notes: Vec<String>,
    /// What could not be measured, and why.
    pub failures: Vec<String>,
}

impl Report {
    pub fn add(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.figures.push(Figure { name: name.into(), value, unit, of: None });
    }

    /// Adds a figure and its share of an earlier one, if that was measured.
    pub fn add_share(&mut self, name: impl Into<String>, value: f64, unit: &'static str, of: &str) {
        let ceiling = self.value(of).map(|ceiling| (of.to_string(), ceiling));
        self.figures.push(Figure { name: name.into(), value, unit, of: ceiling });
    }

    pub fn value(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|figure| figure.name == name).map(|figure| figure.value)
    }

    pub fn print(&self) {
        if let Some(version) = self.cublaslt {
            println!("cuBLASLt {version}");
        }
        for Figure { name, value, unit, of } in &self.figures {
            let share = of
                .as_ref()
                .map(|(what, ceiling)| format!("   {:5.1} % of {what}", 100.0 * value / ceiling));
            println!("{name:<52} {value:>10.1} {unit:<8}{}", share.unwrap_or_default());
        }
        self.notes.iter().for_each(|note| println!("note: {note}"));
        self.failures.iter().for_each(|failure| println!("not measured: {failure}"));
    }

    /// Writes the figures, with `beside`, JSON of its own, put in as it is. What was not measured
    /// is an error, once everything else is written.
    pub fn write(&self, path: &str, beside: Option<&str>) -> Result<(), String> {
        std::fs::write(path, self.json(beside)).map_err(|e| format!("{path}: {e}"))?;
        self.complete()
    }

    /// An error that names what was not measured, if anything was not.
    pub fn complete(&self) -> Result<(), String> {
        if self.failures.is_empty() { Ok(()) } else { Err(self.failures.join("; ")) }
    }

    fn json(&self, beside: Option<&str>) -> String {
        let version = self.cublaslt.map_or("null".to_string(), |version| version.to_string());
        let mut json = format!(
            "{{\n  \"device\": {},\n  \"cublaslt\": {version},\n  \"figures\": [\n",
            quoted(&self.device)
        );
        for (i, Figure { name, value, unit, of }) in self.figures.iter().enumerate() {
            let of = of.as_ref().map(|(what, ceiling)| {
                format!(", \"of\": {}, \"share\": {:.4}", quoted(what), value / ceiling)
            });
            let comma = if i + 1 < self.figures.len() { "," } else { "" };
            let (name, unit, of) = (quoted(name), quoted(unit), of.unwrap_or_default());
            // Writing to a string cannot fail.
            let _ = writeln!(
                json,
                "    {{\"name\": {name}, \"value\": {value:.3}, \"unit\": {unit}{of}}}{comma}"
            );
        }
        let list =
            |texts: &[String]| texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", ");
        let beside = beside.map_or("null", str::trim);
        let _ = write!(
            json,
            "  ],\n  \"notes\": [{}],\n  \"not_measured\": [{}],\n  \"beside\": {beside}\n}}\n",
            list(&self.notes),
            list(&self.failures)
        );
        json
    }
}

fn quoted(text: &str) -> String {
    let mut json = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            c if c.is_control() => json.push(' '),
            c => json.push(c),
        }
    }
    json.push('"');
    json
}
