//! How long a lane that weighs more than others keeps its turn.

/// The numbers that the clock is scrambled with: a prime below 2^16, so that every product is exact
/// in the doubles of a Redis script, too, and three that are arbitrary.
const PRIME: u64 = 65_521;
const FACTORS: [u64; 3] = [31_337, 11, 40_503];

/// Whether the turn of a lane of this weight is over, of which `given` jobs have just been given:
/// always if it has given as many jobs as it weighs, and else with about the chance `given / weight`,
/// so that it gives as many as it weighs in the long run.
///
/// Instead of dice it takes the store's turn `clock`, which has just ticked for this lane. Every store
/// decides alike, and has nothing to remember.
#[must_use]
pub fn is_turn_over(clock: u64, weight: u32, given: u32) -> bool {
    let dice = scrambled(clock) * u64::from(weight) < PRIME * u64::from(given);
    given == 0 || given >= weight || dice
}

/// A number below [`PRIME`] that shows no trace of its neighbours'.
fn scrambled(clock: u64) -> u64 {
    let first = (clock % PRIME * FACTORS[0] + 7) % PRIME;
    let second = (first * first + first * FACTORS[1]) % PRIME;
    (second * FACTORS[2] + 12_345) % PRIME
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_weight_every_turn_is_over() {
        assert!((0..1000).all(|clock| is_turn_over(clock, 1, 1)));
        assert!((0..1000).all(|clock| is_turn_over(clock, 10, 0) && is_turn_over(clock, 10, 10)));
    }

    /// Two lanes, one job at a time, as for a worker with a single slot.
    #[test]
    fn a_lane_gives_as_many_jobs_a_turn_as_it_weighs() {
        for weight in [2, 3, 5, 10, 40, 100] {
            let (mut clock, mut heavy, mut light) = (7, 0_u32, 0_u32);
            while light < 1000 {
                clock += 1;
                heavy += 1;
                if is_turn_over(clock, weight, 1) {
                    clock += 1;
                    light += 1;
                }
            }
            let ratio = f64::from(heavy) / f64::from(light);
            let error = (ratio / f64::from(weight) - 1.0).abs();
            assert!(error < 0.1, "weight {weight}: {ratio}");
        }
    }
}
