//! What is sent: a stream with everything that a stream of images may have.

use everpair::scenes;

use super::place::{Dice, Message};

/// Inserts, duplicates, replaced pictures, replaced captions, deletes, re-inserts and bad files.
pub fn history(images: usize, seed: u64) -> Vec<Message> {
    let mut dice = Dice(seed);
    let mut bad = scenes::bad_files(seed).into_iter();
    let mut messages = Vec::new();
    for (index, scene) in scenes::scenes(images, seed).enumerate() {
        messages.push(Message::from(scene));
        let earlier = dice.below(index + 1);
        match dice.below(6) {
            0 => messages.push(scenes::replacement(earlier, index as u64, seed).into()),
            1 => {
                let text = format!("{} small red stars on a green ground", 2 + index % 7);
                messages.push(Message::from(scenes::scene(earlier, seed)).with("caption", &text));
            }
            2 => messages.push(Message::tombstone(&scenes::scene(earlier, seed).id)),
            3 => messages.push(scenes::scene(earlier, seed).into()),
            _ => {}
        }
        if index % 9 == 4 {
            let next = bad.next();
            messages.extend(next.map(|file| {
                let message = Message { key: file.id, value: file.value, headers: Vec::new() };
                match file.caption {
                    Some(caption) => message.with("caption", &caption),
                    None => message,
                }
            }));
        }
    }
    messages
}
