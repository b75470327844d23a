//! An explained triplet for a person.

use kernels::vector::UNIT;
use schemas::Channel;
use serde_json::Value;

use crate::outln;

/// Prints it to stdout.
pub fn print(explained: &Value) {
    if explained.get("query").is_none() {
        return request(explained);
    }
    let (at, epoch) = (&explained["at_epoch"], &explained["epoch"]);
    let id = text(&explained["triplet_id"]);
    match explained["why"].as_str() {
        None => outln!("triplet {id} as of epoch {at}; this row is of epoch {epoch}"),
        Some(why) => outln!("no triplet {id} as of epoch {at}: {why}"),
    }
    image("query", &explained["query"]);
    image("target", &explained["target"]);
    outln!("\nhard negatives");
    for negative in items(&explained["hard_negatives"]) {
        let same = negative["image_id"] == explained["query"]["image_id"];
        let note = if same { " (the query itself)" } else { "" };
        outln!("  {}{note}: {}", text(&negative["image_id"]), message(negative));
    }
    pair(explained);
    if explained["answer"].is_object() {
        answer(explained);
        instructions(explained);
    }
    if items(&explained["changes"]).next().is_some() {
        outln!("\nchanges");
    }
    for change in items(&explained["changes"]) {
        let (op, reason) = (text(&change["op"]), text(&change["reason"]));
        outln!("  epoch {}: {op} ({reason})", change["epoch"]);
    }
}

/// A request that was named by its own id.
fn request(explained: &Value) {
    let id = text(&explained["answer"]["request_id"]);
    outln!("request {id} as of epoch {}", explained["at_epoch"]);
    for role in ["query", "target"] {
        let content = text(&explained[format!("{role}_content_id")]);
        match explained[format!("{role}_id")].as_str() {
            Some(image) => outln!("  {role:<9} {image}, sha256 {content}"),
            None => outln!("  {role:<9} not live any more, sha256 {content}"),
        }
    }
    for triplet in items(&explained["triplets"]) {
        outln!("  triplet   {}", text(triplet));
    }
    if let Some(why) = explained["why"].as_str() {
        outln!("  triplet   none: {why}");
    }
    answer(explained);
    for one in items(&explained["instructions"]) {
        outln!("  passes    {}", text(one));
    }
    left_out(explained);
}

fn image(role: &str, image: &Value) {
    outln!("\n{role} {}", text(&image["image_id"]));
    outln!("  message   {}", message(image));
    outln!("  ingested  {}, row of epoch {}", text(&image["ingested_at"]), image["epoch"]);
    let (width, height, format) = (&image["width"], &image["height"], text(&image["format"]));
    outln!("  content   sha256 {}", text(&image["content_id"]));
    outln!("            {width} x {height} {format}, phash {}", text(&image["phash"]));
    if let Some(measures) = image["measures"].as_object() {
        let each = measures
            .iter()
            .map(|(name, value)| format!("{name} {:.2}", value.as_f64().unwrap_or(f64::NAN)));
        outln!("  measures  {}", each.collect::<Vec<_>>().join(", "));
    }
    match (image["caption"].as_str(), image["caption_by"].as_str()) {
        (Some(caption), Some(model)) => outln!("  caption   {caption} (written by {model})"),
        (Some(caption), None) => outln!("  caption   {caption}"),
        (None, _) if image["caption_waits"] == true => outln!("  caption   none yet"),
        (None, _) => {}
    }
    for name in ["source", "licence", "uri"] {
        if let Some(value) = image[name].as_str() {
            outln!("  {name:<9} {value}");
        }
    }
}

fn message(image: &Value) -> String {
    let (partition, offset) = (&image["partition"], &image["offset"]);
    format!("topic {}, partition {partition}, offset {offset}", text(&image["topic"]))
}

fn pair(explained: &Value) {
    let pair = &explained["pair"];
    match pair["epoch"].as_i64() {
        Some(epoch) => outln!("\npair, mined in epoch {epoch}"),
        None => outln!("\npair: no longer mined"),
    }
    outln!("  {:<9} {:>9} {:>5}  {:<32} bands", "channel", "score", "rank", "encoder");
    for channel in Channel::ALL.map(Channel::as_str) {
        let score = pair["scores"][channel].as_f64().map(|score| format!("{score:.6}"));
        let rank = pair["ranks"][channel].as_i64().map(|rank| rank.to_string());
        let rules = &explained["in_force"]["channels"][channel];
        let bands = items(&rules["bands"]).map(|band| {
            let number = |at: usize| band[at].as_f64().unwrap_or(f64::NAN) / f64::from(UNIT);
            format!("{:.4} to {:.4}", number(0), number(1))
        });
        let (score, rank) = (score.unwrap_or("-".into()), rank.unwrap_or("-".into()));
        let (encoder, bands) = (text(&rules["encoder"]), bands.collect::<Vec<_>>().join(", "));
        outln!("  {channel:<9} {score:>9} {rank:>5}  {encoder:<32} {bands}");
    }
}

fn answer(explained: &Value) {
    let answer = &explained["answer"];
    outln!("\nanswer to request {}", text(&answer["request_id"]));
    let (model, outcome) = (text(&answer["model"]), text(&answer["outcome"]));
    outln!("  model     {model}, prompt version {}", answer["prompt_version"]);
    outln!("  outcome   {outcome}, {}, of epoch {}", text(&answer["created_at"]), answer["epoch"]);
    let (read, written) = (text(&answer["prompt_tokens"]), text(&answer["completion_tokens"]));
    outln!("  cost      {} USD, {read} tokens read, {written} written", text(&answer["cost_usd"]));
    let describe = &answer["describe"];
    if describe.is_object() {
        let (id, outcome) = (text(&describe["request_id"]), text(&describe["outcome"]));
        let (cost, shared) = (text(&describe["cost_usd"]), &describe["shared_by"]);
        outln!(
            "  described {outcome}, {cost} USD for {shared} of the two directions: request {id}"
        );
        outln!("  in all    {} USD", text(&answer["cost_of_pair_usd"]));
    }
    outln!("  said      {}", text(&answer["description"]));
}

fn instructions(explained: &Value) {
    if items(&explained["instructions"]).next().is_some() {
        outln!("\ninstructions");
    }
    for one in items(&explained["instructions"]) {
        let ranks = ["rank_text", "rank_image", "rank_both"].map(|name| text(&one[name]));
        let label = text(&one["label"]);
        outln!("  {}", text(&one["instruction"]));
        outln!("    {label}; target's rank by text, image, both: {}", ranks.join(", "));
        if let Some(verdict) = one["verdict"].as_str() {
            outln!("    the judge chose: {verdict}");
        }
    }
    left_out(explained);
}

fn left_out(explained: &Value) {
    let left_out: Vec<&Value> = items(&explained["left_out"]).collect();
    if !left_out.is_empty() {
        outln!("\nleft out");
    }
    for one in left_out {
        outln!("  {}", text(&one["instruction"]));
        match one["reason"].as_str() {
            Some(reason) => outln!("    {reason}: {}", text(&one["detail"])),
            None => outln!("    breaks none of the rules in force"),
        }
    }
    let rejects: Vec<&Value> = items(&explained["rejects"]).collect();
    if !rejects.is_empty() {
        outln!("\nrejects, as they were written");
    }
    for one in rejects {
        let (reason, detail) = (text(&one["reason"]), text(&one["detail"]));
        outln!("  epoch {}: {reason}: {detail}", one["epoch"]);
    }
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A value without quotes; `-` where there is none.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
