//! Tables of the numbers that stand for others.

/// Rounds of Lloyd's algorithm; it ends earlier if nothing moves.
const ROUNDS: usize = 30;

/// `size` numbers, ascending, near to `numbers`: Lloyd's algorithm in one dimension, from quantiles on.
///
/// `numbers` must be finite.
pub(super) fn table(numbers: &[f32], size: usize) -> Vec<f32> {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable_by(f32::total_cmp);
    if sorted.is_empty() {
        return vec![0.0; size];
    }
    let mut sums = Vec::with_capacity(sorted.len() + 1);
    let mut sum = 0f64;
    sums.push(0.0);
    for &x in &sorted {
        sum += f64::from(x);
        sums.push(sum);
    }
    // a half quantiles, where most numbers are, and a half even steps, as the ends matter too
    let (low, high) = (sorted[0], sorted[sorted.len() - 1]);
    let mut table: Vec<f32> = (0..size)
        .map(|i| {
            let share = (i as f32 + 0.5) / size as f32;
            let at = (share * sorted.len() as f32) as usize;
            let quantile = sorted[at.min(sorted.len() - 1)];
            0.5 * (quantile + low + (high - low) * share)
        })
        .collect();
    for _ in 0..ROUNDS {
        let mut moved = false;
        let mut from = 0;
        for i in 0..size {
            let to = match table.get(i + 1) {
                None => sorted.len(),
                Some(next) => {
                    let edge = 0.5 * (table[i] + next);
                    from + sorted[from..].partition_point(|x| *x < edge)
                }
            };
            if to > from {
                let mean = ((sums[to] - sums[from]) / (to - from) as f64) as f32;
                moved |= mean != table[i];
                table[i] = mean;
            }
            from = to;
        }
        // an entry that nothing is near to stays, and others move past it
        table.sort_unstable_by(f32::total_cmp);
        if !moved {
            break;
        }
    }
    table
}

/// The number of the entry of `table`, which is ascending, that is nearest to `x`.
pub(super) fn nearest(table: &[f32], x: f32) -> usize {
    let above = table.partition_point(|t| *t < x);
    match (above.checked_sub(1), table.get(above)) {
        (None, _) => 0,
        (Some(below), None) => below,
        (Some(below), Some(next)) if x - table[below] <= next - x => below,
        (Some(_), Some(_)) => above,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_of_a_table_are_within_its_steps(
            numbers in prop::collection::vec(-10f32..10.0, 1..400),
        ) {
            let table = table(&numbers, 16);
            prop_assert!(table.is_sorted());
            let (low, high) = numbers.iter().fold((f32::MAX, f32::MIN), |(l, h), x| (l.min(*x), h.max(*x)));
            let mut off = 0.0;
            for &x in &numbers {
                let at = nearest(&table, x);
                let best = table.iter().map(|t| (t - x).abs()).fold(f32::MAX, f32::min);
                prop_assert_eq!((table[at] - x).abs(), best);
                off += f64::from(best).powi(2);
            }
            // no worse than even steps, whose error is at most half of one
            let step = f64::from(high - low) / 16.0;
            prop_assert!((off / numbers.len() as f64).sqrt() <= step, "{off} {step}");
        }
    }

    #[test]
    fn few_numbers_are_held_exactly() {
        let numbers = [0.5, -1.0, 0.5, 3.0, 3.0, -1.0];
        let table = table(&numbers, 16);
        for x in numbers {
            assert_eq!(table[nearest(&table, x)], x);
        }
        assert_eq!(super::table(&[], 4), [0.0; 4]);
        assert_eq!(super::table(&[2.0; 9], 2), [2.0; 2]);
    }
}
