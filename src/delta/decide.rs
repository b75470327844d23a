//! What to do, given what was seen: pure functions from facts to decisions. The code around them
//! only gathers the facts and carries the decision out, so a model can put these functions through
//! every order of crashes, lost answers and rival writers.

/// What the store said when a commit's object was to be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Created,
    Exists,
    Failed,
}

/// What is found under the name of the commit when one looks after an answer that was not
/// `Created`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Nothing,
    Ours,
    Another,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The commit is in the table.
    Committed,
    /// The version belongs to someone else for good: ours can never happen.
    Taken,
    /// It has not happened, and an answer on its way may still make it happen.
    Unknown,
}

/// The answer alone never decides: a store may lose it, or repeat our own request and find the
/// object that the first try made.
pub fn attempt(answer: Answer, found: Found) -> Attempt {
    match (answer, found) {
        (Answer::Created, _) | (_, Found::Ours) => Attempt::Committed,
        (_, Found::Another) => Attempt::Taken,
        (_, Found::Nothing) => Attempt::Unknown,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// A newer writer is there: leave.
    Leave,
    /// The table is already ours.
    Held,
    /// Commit our generation at the next version.
    Write,
}

/// Whether a writer of generation `mine` may claim a table that was last claimed by `table`.
pub fn claim(table: Option<u64>, mine: u64) -> Claim {
    match table {
        Some(held) if held > mine => Claim::Leave,
        Some(held) if held == mine => Claim::Held,
        _ => Claim::Write,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admit {
    Go,
    /// The table was claimed by another generation.
    Fenced,
    /// The table already holds this epoch.
    Replay,
}

/// Whether an epoch may be committed to a table. A memo only grows and is not taken back on start,
/// so it may get more rows of an epoch of which it holds some already.
pub fn admit(
    mine: u64,
    table: Option<u64>,
    table_epoch: Option<u64>,
    epoch: u64,
    memo: bool,
) -> Admit {
    if table != Some(mine) {
        return Admit::Fenced;
    }
    match table_epoch {
        Some(held) if held > epoch || (held == epoch && !memo) => Admit::Replay,
        _ => Admit::Go,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    Keep,
    /// Take back the commit of an epoch that the anchor never reached.
    Restore,
}

/// Whether a table has lost commits: it is at version `held`, and a page of its epochs names `named`.
pub fn lost(named: Option<u64>, held: Option<u64>) -> bool {
    held < named
}

/// What to do on start with a table other than the anchor.
pub fn resume(anchor_epoch: Option<u64>, table_epoch: Option<u64>, memo: bool) -> Resume {
    if !memo && table_epoch > anchor_epoch { Resume::Restore } else { Resume::Keep }
}

/// Which tables an epoch commits, in order; the last one is the anchor. An epoch that read and
/// changed nothing commits none, and any other ends with the anchor's commit, which makes it real.
pub fn plan(changed: &[bool], offsets_moved: bool) -> Vec<usize> {
    let mut tables: Vec<usize> = (0..changed.len()).filter(|&table| changed[table]).collect();
    let anchor = changed.len().checked_sub(1);
    if let Some(anchor) = anchor
        && (offsets_moved || !tables.is_empty())
        && tables.last() != Some(&anchor)
    {
        tables.push(anchor);
    }
    tables
}

/// Whether `latest.json` is behind the anchor and must be written again on start.
pub fn latest_lags(anchor_epoch: Option<u64>, latest_epoch: Option<u64>) -> bool {
    latest_epoch < anchor_epoch
}
