//! What a shard keeps, seen from inside.

use kernels::vector::{Band, quantize};

use super::*;

fn shard(mining: Mining) -> Shard {
    let book = Arc::new(VectorBook::default());
    Shard::new(0, 1, Arc::new(mining), book, Arc::new(Counters::new(1)), Arc::default())
}

/// One epoch of a shard that is alone.
fn epoch(shard: &mut Shard, epoch: Epoch, changes: Vec<VersionChange>) -> Vec<Lists> {
    let mut work = shard.begin(epoch, changes);
    let mut offers = Vec::new();
    while let Some(found) = shard.step(&mut work) {
        offers.extend(found.into_iter().map(|(_, offer)| offer));
    }
    shard.gather(offers);
    let requests = shard.short();
    let answers = shard.answer(&requests);
    shard.gather(answers.into_iter().map(|(_, offer)| offer).collect());
    shard.close()
}

/// Of a dimension that is searched by codes.
const DIM: usize = 128;

fn near_identical(n: usize) -> Arc<Version> {
    let mut x = [10_000f32; DIM];
    x[n % DIM] += (n / DIM + 1) as f32;
    let vectors = [quantize(&x).map(Arc::from), None, None];
    Arc::new(Version { image_id: format!("{n}").into(), row: n as RowId, vectors })
}

/// However many images are in one another's bands, a list has room for `neighbors` and the slack.
#[test]
fn lists_of_near_identical_images_stay_short() {
    const COUNT: usize = 6_000;
    let mut mining = Mining::default();
    mining.bands[0] = vec![Band::new(0.9, 1.01).unwrap()];
    let room = mining.neighbors[0] + mining.slack;
    let mut shard = shard(mining);
    for (e, ids) in (0..COUNT).collect::<Vec<_>>().chunks(1_000).enumerate() {
        let enter = ids.iter().map(|&n| VersionChange::Add(near_identical(n))).collect();
        epoch(&mut shard, e as Epoch, enter);
    }
    let lists: Vec<&Kept> = shard.locals.iter().flatten().flat_map(|l| &l.lists[0]).collect();
    assert_eq!(lists.len(), COUNT);
    assert!(lists.iter().all(|kept| kept.entries.len() == room && !kept.complete));
    let entries: usize = lists.iter().map(|kept| kept.entries.capacity()).sum();
    assert!(entries <= 2 * room * COUNT, "room for {entries} entries");
}

/// Rows, places and spare memory are used again, and a row that moved is found where it is.
#[test]
fn a_corpus_that_turns_over_does_not_grow() {
    let mut mining = Mining::default();
    mining.bands[0] = vec![Band::new(0.9, 1.01).unwrap()];
    let mut shard = shard(mining);
    let (mut most, mut first) = (0, 0);
    for n in 0..40usize {
        let mut changes: Vec<_> =
            (0..50).map(|i| VersionChange::Add(near_identical(n * 50 + i))).collect();
        if n > 0 {
            let gone = (0..50).map(|i| near_identical((n - 1) * 50 + (i * 7) % 50));
            changes.extend(gone.map(|v| VersionChange::Remove(Arc::clone(&v.image_id), v.row)));
        }
        epoch(&mut shard, n as Epoch, changes);
        let matrix = shard.matrices[0].as_ref().unwrap();
        assert_eq!((matrix.rows.len(), shard.places.len()), (50, 50));
        for (at, &place) in matrix.places.iter().enumerate() {
            let local = shard.locals[place as usize].as_ref().unwrap();
            assert_eq!(local.at[0], Some(at as u32));
            let own = local.version.vectors[0].as_deref().unwrap();
            assert!(std::ptr::eq(matrix.rows.row(at), own), "there is one copy");
            // A floor above what the lists take would lose neighbours; one far below costs time.
            let takes = floor(local.lists[0].iter().map(Some), &shard.mining.bands[0]);
            assert!(matrix.rows.floor(at) <= takes, "{} > {takes}", matrix.rows.floor(at));
            assert!(matrix.rows.floor(at) >= shard.mining.bands[0][0].lo);
        }
        most = most.max(matrix.rows.bytes());
        if n == 1 {
            first = most;
        }
    }
    assert!(most <= first, "{most} bytes of codes, {first} at first");
    assert!(shard.locals.len() <= 100, "places for {}", shard.locals.len());
}
