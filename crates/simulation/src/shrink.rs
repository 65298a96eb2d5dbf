//! From a failing run to a shorter one that fails in the same way: kinds of harm are left out, messages and pieces of harm
//! cut away, as long as the same invariant breaks.

use crate::harm::Kind;
use crate::plan::Options;
use crate::run::{Report, run};

/// The most runs that are spent on it.
const RUNS: u32 = 60;

/// The shortest run found that breaks the same invariant, with its story.
pub fn shrink(failed: &Report) -> Report {
    let Some(failure) = &failed.failure else { return run(&failed.options, true) };
    let mut best = failed.options.clone();
    let mut runs = 0;
    let mut fails = |options: &Options| {
        runs += 1;
        runs <= RUNS && run(options, false).failure.is_some_and(|it| it.invariant == failure.invariant)
    };
    for kind in Kind::ALL {
        let mut shorter = best.clone();
        shorter.without.insert(kind);
        if shorter != best && fails(&shorter) {
            best = shorter;
        }
    }
    cut(&mut best, |options, most| options.harms = Some(most), &mut fails);
    cut(&mut best, |options, most| options.messages = Some(most), &mut fails);
    run(&best, true)
}

/// Finds a small bound by halving.
fn cut(best: &mut Options, bound: impl Fn(&mut Options, usize), fails: &mut impl FnMut(&Options) -> bool) {
    let (mut low, mut high) = (0, 64);
    while low < high {
        let middle = (low + high) / 2;
        let mut shorter = best.clone();
        bound(&mut shorter, middle);
        if fails(&shorter) {
            (*best, high) = (shorter, middle);
        } else {
            low = middle + 1;
        }
    }
}
