//! Money: a budget that is drawn in durable slices before anything is spent (I8).
//!
//! ```text
//!  budget ─► slice 1 (closed: 0.48 of 0.50) ─► slice 2 (open: 0.50) ─► …   _everpair/money/<n>.json
//!                                                 └─► a call's reservation ─► what it cost
//! ```
//!
//! A slice is an object that exactly one writer creates, before the first call that it pays for.
//! Closed, it counts as what was spent of it; open, as all of it: so a kill can make the spending
//! look larger than it was, never smaller. A call reserves the most that it can cost; what it did
//! cost replaces that. Amounts are integers, in billionths of a dollar.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use schemas::{config::Annotator, limits};
use serde::{Deserialize, Serialize};

use crate::delta::Store;

/// Where slices are.
pub const FOLDER: &str = "_everpair/money";
/// Tries to create a slice, where another writer creates some too.
const DRAW_ATTEMPTS: usize = 20;
const NANOS: f64 = 1e9;
const DAY_SECONDS: i64 = 86_400;

/// Billionths of a dollar.
pub type Nanos = u64;

/// In dollars.
pub fn usd(nanos: Nanos) -> f64 {
    nanos as f64 / NANOS
}

/// Of dollars.
pub fn nanos(usd: f64) -> Nanos {
    (usd * NANOS).round() as Nanos
}

/// What tokens cost.
#[derive(Clone, Copy, Debug)]
pub struct Prices {
    input: f64,
    output: f64,
}

impl Prices {
    /// As `[annotator]` has them: dollars for a million.
    pub fn of(config: &Annotator) -> Prices {
        Prices {
            input: config.input_price.unwrap_or(0.0),
            output: config.output_price.unwrap_or(0.0),
        }
    }

    /// Of so many tokens read and written, rounded up.
    pub fn cost(&self, read: u64, written: u64) -> Nanos {
        // Dollars for a million are thousands of nanos for one.
        let exact = 1000.0 * (read as f64 * self.input + written as f64 * self.output);
        exact.ceil() as Nanos
    }
}

/// A slice as its object says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    drawn: Nanos,
    /// Once it is closed.
    spent: Option<Nanos>,
    /// Days since 1970, UTC.
    day: i64,
    /// Tells who wrote it: two writers may draw the same amount.
    writer: String,
}

impl Page {
    fn counts(&self) -> Nanos {
        self.spent.unwrap_or(self.drawn)
    }
}

fn name(slice: u64) -> String {
    format!("{FOLDER}/{slice:010}.json")
}

fn pages(store: &Store) -> anyhow::Result<BTreeMap<u64, Page>> {
    let names = store.list(FOLDER, "").context("list the slices of the budget")?;
    let mut pages = BTreeMap::new();
    for (file, _) in names {
        let Some(slice) = file.strip_suffix(".json").and_then(|stem| stem.parse().ok()) else {
            bail!("{FOLDER}/{file} is no slice of a budget: what was spent cannot be told");
        };
        let name = name(slice);
        let content = store.get(&name)?.with_context(|| format!("{name} has gone"))?;
        let page = serde_json::from_slice(&content);
        pages.insert(slice, page.with_context(|| format!("read {name}"))?);
    }
    Ok(pages)
}

/// What was spent, by the slices alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// In closed slices.
    pub closed: Nanos,
    /// Drawn in slices that are open, or were at a kill: they count as spent.
    pub open: Nanos,
    /// Of both, today.
    pub today: Nanos,
}

impl Spent {
    /// As the tables at `store` have it; `now` is in microseconds UTC.
    ///
    /// # Errors
    /// An object cannot be read.
    pub fn read(store: &Store, now_us: i64) -> anyhow::Result<Spent> {
        let mut all = Spent::default();
        for page in pages(store)?.values() {
            match page.spent {
                Some(spent) => all.closed += spent,
                None => all.open += page.drawn,
            }
            all.today += if page.day == day(now_us) { page.counts() } else { 0 };
        }
        Ok(all)
    }
}

/// Days since 1970, UTC.
pub fn day(now_us: i64) -> i64 {
    now_us.div_euclid(1_000_000 * DAY_SECONDS)
}

/// The most that a call can cost, set aside.
#[derive(Debug)]
#[must_use = "what is not settled stays reserved"]
pub struct Reserved {
    /// None where nothing was set aside.
    slice: Option<u64>,
    amount: Nanos,
}

impl Reserved {
    /// What was set aside.
    pub fn amount(&self) -> Nanos {
        self.amount
    }
}

/// A slice that this writer has drawn.
struct Slice {
    page: Page,
    spent: Nanos,
    reserved: Nanos,
    /// Nothing more is reserved in it; it closes with its last call.
    full: bool,
}

impl Slice {
    /// Whether there is so much left.
    fn covers(&self, amount: Nanos) -> bool {
        !self.full && self.page.drawn.saturating_sub(self.spent + self.reserved) >= amount
    }
}

/// The budget of a dataset, as its one writer spends it.
pub struct Ledger {
    store: Store,
    writer: String,
    budget: Nanos,
    daily: Option<Nanos>,
    /// Slices of others, and those of this writer that are closed.
    others: BTreeMap<u64, Page>,
    mine: BTreeMap<u64, Slice>,
}

/// Whether a call may be made.
#[derive(Debug)]
pub enum Draw {
    /// It is paid for.
    Yes(Reserved),
    /// What is left does not cover it.
    Spent,
    /// Of today's budget.
    SpentToday,
}

impl Ledger {
    /// Reads what was spent so far.
    ///
    /// # Errors
    /// A slice cannot be read: then nobody knows.
    pub fn open(store: &Store, config: &Annotator) -> anyhow::Result<Ledger> {
        Ok(Ledger {
            store: store.clone(),
            writer: uuid::Uuid::new_v4().to_string(),
            budget: nanos(config.budget.unwrap_or(0.0)),
            daily: config.daily_budget.map(nanos),
            others: pages(store)?,
            mine: BTreeMap::new(),
        })
    }

    /// What counts as spent: never less than what was.
    pub fn counted(&self, only: Option<i64>) -> Nanos {
        let of_day = |page: &Page| only.is_none_or(|day| page.day == day);
        let others = self.others.values().filter(|page| of_day(page)).map(Page::counts);
        let mine = self.mine.values().map(|slice| &slice.page).filter(|page| of_day(page));
        others.sum::<Nanos>() + mine.map(|page| page.drawn).sum::<Nanos>()
    }

    /// What was spent and is reserved now, as far as this writer knows.
    pub fn spent(&self) -> Nanos {
        let mine = self.mine.values().map(|slice| slice.spent + slice.reserved);
        self.others.values().map(Page::counts).sum::<Nanos>() + mine.sum::<Nanos>()
    }

    /// What may still be spent today, by the total and the daily budget. It may lie in slices that are
    /// open, so that not all of it covers one call.
    pub fn left(&self, today: i64) -> Nanos {
        let left = self.budget.saturating_sub(self.spent());
        let Some(most) = self.daily else { return left };
        let others = self.others.values().filter(|page| page.day == today).map(Page::counts);
        let mine = self.mine.values().filter(|slice| slice.page.day == today);
        let mine = mine.map(|slice| slice.spent + slice.reserved);
        left.min(most.saturating_sub(others.sum::<Nanos>() + mine.sum::<Nanos>()))
    }

    /// Sets aside the most that a call can cost; draws a slice where those that are open do not
    /// cover it.
    ///
    /// # Errors
    /// The store failed: no call may be made.
    pub fn reserve(&mut self, amount: Nanos, now_us: i64) -> anyhow::Result<Draw> {
        if amount == 0 {
            return Ok(Draw::Yes(Reserved { slice: None, amount }));
        }
        let today = day(now_us);
        self.mine.values_mut().filter(|s| s.page.day != today).for_each(|s| s.full = true);
        if !self.mine.values().any(|slice| slice.covers(amount))
            && let Some(spent) = self.draw(amount, today)?
        {
            return Ok(spent);
        }
        let found = self.mine.iter_mut().find(|(_, slice)| slice.covers(amount));
        let Some((number, slice)) = found else { return Ok(Draw::Spent) };
        slice.reserved += amount;
        Ok(Draw::Yes(Reserved { slice: Some(*number), amount }))
    }

    /// Draws a slice that covers `amount`; says which budget does not allow it.
    fn draw(&mut self, amount: Nanos, today: i64) -> anyhow::Result<Option<Draw>> {
        for _ in 0..DRAW_ATTEMPTS {
            // What open slices have left is theirs until they close.
            let left = self.budget.saturating_sub(self.counted(None));
            let of_day = self.daily.map(|most| most.saturating_sub(self.counted(Some(today))));
            if left.min(of_day.unwrap_or(left)) < amount {
                if self.close_idle()? {
                    continue;
                }
                let whole = left >= amount;
                return Ok(Some(if whole { Draw::SpentToday } else { Draw::Spent }));
            }
            let most = left.min(of_day.unwrap_or(left));
            let drawn = (self.budget / limits::ANNOTATOR_SLICES).clamp(amount, most);
            let page = Page { drawn, spent: None, day: today, writer: self.writer.clone() };
            let number = self.next();
            let content = serde_json::to_vec(&page).context("write a slice")?;
            if self.store.put_new(&name(number), content).context("draw from the budget")? {
                self.mine.values_mut().for_each(|slice| slice.full = true);
                self.mine.insert(number, Slice { page, spent: 0, reserved: 0, full: false });
                self.close_idle_full()?;
                return Ok(None);
            }
            // Another writer was faster. That it has taken over is seen at the next commit; until
            // then its slices count.
            let mut all = pages(&self.store)?;
            all.retain(|number, _| !self.mine.contains_key(number));
            self.others = all;
        }
        bail!("{FOLDER}: other writers draw from the budget too fast")
    }

    /// Draws a slice of exactly so much, for calls that another process makes: [`close`] ends it by the
    /// name of its `writer`. False where the budgets do not allow it.
    ///
    /// # Errors
    /// The store failed: no call may be made.
    pub fn take(&mut self, amount: Nanos, writer: &str, now_us: i64) -> anyhow::Result<bool> {
        for _ in 0..DRAW_ATTEMPTS {
            let today = day(now_us);
            if self.left(today) < amount {
                return Ok(false);
            }
            let page = Page { drawn: amount, spent: None, day: today, writer: writer.to_owned() };
            let number = self.next();
            let content = serde_json::to_vec(&page).context("write a slice")?;
            if self.store.put_new(&name(number), content).context("draw from the budget")? {
                self.others.insert(number, page);
                return Ok(true);
            }
            self.others = pages(&self.store)?;
        }
        bail!("{FOLDER}: other writers draw from the budget too fast")
    }

    fn next(&self) -> u64 {
        self.others.keys().chain(self.mine.keys()).max().map_or(1, |newest| newest + 1)
    }

    /// A call has ended, and cost so much.
    ///
    /// # Errors
    /// It cost more than was set aside and that could not be stored, or a slice could not be
    /// closed: the next start counts that one as spent.
    pub fn settle(&mut self, reserved: Reserved, cost: Nanos) -> anyhow::Result<()> {
        let Some(number) = reserved.slice else { return Ok(()) };
        let Some(slice) = self.mine.get_mut(&number) else { return Ok(()) };
        slice.reserved -= reserved.amount;
        slice.spent += cost;
        let taken = slice.spent + slice.reserved;
        if taken > slice.page.drawn {
            // An endpoint that counts more than it could: it is owed all the same.
            slice.page.drawn = taken;
            let content = serde_json::to_vec(&slice.page).context("write a slice")?;
            self.store.replace(&name(number), content).context("note what was spent")?;
        }
        self.close_idle_full()
    }

    fn close_idle_full(&mut self) -> anyhow::Result<()> {
        let full = self.mine.iter().filter(|(_, slice)| slice.full && slice.reserved == 0);
        let full: Vec<u64> = full.map(|(number, _)| *number).collect();
        full.into_iter().try_for_each(|number| self.close(number))
    }

    /// Closes what nobody uses now; true if that left something of a slice.
    fn close_idle(&mut self) -> anyhow::Result<bool> {
        let idle = self.mine.iter().filter(|(_, slice)| slice.reserved == 0);
        let idle: Vec<u64> = idle.map(|(number, _)| *number).collect();
        let mut left = false;
        for number in idle {
            left |= self.mine[&number].spent < self.mine[&number].page.drawn;
            self.close(number)?;
        }
        Ok(left)
    }

    fn close(&mut self, number: u64) -> anyhow::Result<()> {
        let Some(slice) = self.mine.get(&number) else { return Ok(()) };
        let page = Page { spent: Some(slice.spent), ..slice.page.clone() };
        let content = serde_json::to_vec(&page).context("write a slice")?;
        self.store.replace(&name(number), content).context("close a slice of the budget")?;
        self.mine.remove(&number);
        self.others.insert(number, page);
        Ok(())
    }

    /// Ends: what is still reserved counts as spent, for nobody knows whether it was.
    ///
    /// # Errors
    /// The store failed; slices that are open count as spent.
    pub fn finish(mut self) -> anyhow::Result<()> {
        for slice in self.mine.values_mut() {
            slice.spent += std::mem::take(&mut slice.reserved);
        }
        let all: Vec<u64> = self.mine.keys().copied().collect();
        all.into_iter().try_for_each(|number| self.close(number))
    }
}

/// Ends the slice that [`Ledger::take`] drew for `writer`, if it did: of it so much was spent. Once more
/// only adds: what was spent stays so.
///
/// # Errors
/// The store failed: it counts as spent.
pub fn close(store: &Store, writer: &str, spent: Nanos) -> anyhow::Result<()> {
    for (number, page) in pages(store)?.into_iter().filter(|(_, page)| page.writer == writer) {
        let spent = page.spent.map_or(spent, |before| before.max(spent));
        // An endpoint that bills more than it could is owed all the same.
        let page = Page { drawn: page.drawn.max(spent), spent: Some(spent), ..page };
        let content = serde_json::to_vec(&page).context("write a slice")?;
        store.replace(&name(number), content).context("close a slice of the budget")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
