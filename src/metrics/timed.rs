//! Encoders that tell how long they take.

use std::{sync::Arc, time::Instant};

use kernels::{
    decode::Pixels,
    encoders::{ImageEncoder, TextEncoder},
};
use operators::embed::Encoders;

use super::Metrics;

/// The same encoders, each telling how long it takes.
pub fn timed(encoders: &Encoders, metrics: &Arc<Metrics>) -> Encoders {
    let mut timed = encoders.clone();
    for (channel, encoder) in ["semantic", "pattern"].into_iter().zip(&mut timed.image) {
        if let Some(inner) = encoder.take() {
            *encoder = Some(Arc::new(Timed { inner, channel, metrics: metrics.clone() }));
        }
    }
    if let Some(inner) = timed.text.take() {
        let metrics = metrics.clone();
        timed.text = Some(Arc::new(Timed { inner, channel: "caption", metrics }));
    }
    timed
}

struct Timed<E: ?Sized> {
    inner: Arc<E>,
    channel: &'static str,
    metrics: Arc<Metrics>,
}

impl<E: ?Sized> Timed<E> {
    fn time<T>(&self, count: usize, work: impl FnOnce(&E) -> T) -> T {
        let began = Instant::now();
        let done = work(&self.inner);
        self.metrics.encoded(self.channel, began.elapsed(), count as u64);
        done
    }
}

/// The two kinds of encoders differ in what they read, and in nothing else.
macro_rules! tell_time {
    ($encoder:ident, $input:ty, $($more:tt)*) => {
        impl $encoder for Timed<dyn $encoder> {
            fn name(&self) -> &str {
                self.inner.name()
            }
            fn digest(&self) -> String {
                self.inner.digest()
            }
            fn dim(&self) -> usize {
                self.inner.dim()
            }
            fn default_bands(&self) -> &[(f64, f64)] {
                self.inner.default_bands()
            }
            fn encode(&self, batch: &[&$input]) -> Vec<Option<Box<[i16]>>> {
                self.time(batch.len(), |inner| inner.encode(batch))
            }
            $($more)*
        }
    };
}

tell_time! {
    ImageEncoder,
    Pixels,
    fn view(&self, full: &Pixels) -> Option<Pixels> {
        self.inner.view(full)
    }
    fn encode_views(&self, batch: &[&Pixels]) -> Vec<Option<Box<[i16]>>> {
        self.time(batch.len(), |inner| inner.encode_views(batch))
    }
}
tell_time!(TextEncoder, str,);
