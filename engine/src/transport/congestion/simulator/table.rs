//! Ours beside CUBIC, NewReno and BBR. The file header of the simulator has the command.

use super::*;

const ALL: [Who; 4] = [Who::Ours, Who::Cubic, Who::NewReno, Who::Bbr];
const SEED: u64 = 1;

/// Enough for any of them to settle, and some hundred round trips.
const WARM_UP: Duration = Duration::from_secs(3);
const MEASURED: Duration = Duration::from_secs(10);

#[test]
#[ignore = "prints a table, checks nothing; minutes"]
fn ours_beside_cubic_new_reno_and_bbr() {
    println!("greedy: share of the path's payload rate, 99th percentile of waiting at the bottleneck");
    println!("paced: 1,000 messages/s of 128 B: 99th percentile from due to delivered");
    println!("| Mbit/s | round trip | buffer | loss | {} |", ALL.map(|who| format!("{who:?}")).join(" | "));
    println!("|---|---|---|---|---|---|---|---|");
    for megabits_per_second in [1.0, 10.0, 100.0] {
        for round_trip_ms in [20, 100] {
            for (name, products) in [("0.25", 0.25), ("8", 8.0)] {
                for loss in [0.0, 0.001, 0.01, 0.05] {
                    let path = Path::new(megabits_per_second, round_trip_ms).buffer(products).losing(loss);
                    let cells = ALL.map(|who| cell(path, who)).join(" | ");
                    let loss = loss * 100.0;
                    println!("| {megabits_per_second} | {round_trip_ms} ms | {name} | {loss} % | {cells} |");
                }
            }
        }
    }
}

fn cell(path: Path, who: Who) -> String {
    let measure = |plan| run(path, &[plan], WARM_UP, WARM_UP + MEASURED, SEED).remove(0);
    let greedy = measure(Plan::greedy(who));
    let share = greedy.megabits_per_second(MEASURED) / path.megabits_per_second / PAYLOAD_SHARE * 100.0;
    let waits = percentile(&greedy.queueing, 0.99).as_secs_f64() * 1e3;
    let mut text = format!("{share:.0} % {waits:.0} ms");
    // A megabit carries no thousand messages with their headers.
    if path.megabits_per_second > 1.0 {
        let paced = measure(Plan::paced(who, 128, Duration::from_millis(1)));
        let age = percentile(&paced.ages, 0.99).as_secs_f64() * 1e3;
        text.push_str(&format!(", {age:.0} ms"));
    }
    text
}

/// What headers leave of a full packet.
const PAYLOAD_SHARE: f64 = 0.95;
