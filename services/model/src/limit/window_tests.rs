use jiff::Timestamp;
use proptest::prelude::*;

use super::*;

fn at(text: &str) -> i64 {
    text.parse::<Timestamp>().unwrap().as_microsecond()
}

fn zone(name: &str) -> Zone {
    Zone::named(name).unwrap()
}

/// That a bucket is exactly `[from, to)`, whichever way one asks.
fn is_bucket(window: Window, zoned: &Zoned, from: &str, to: &str) {
    let (from_us, to_us) = (at(from), at(to));
    let why = format!("{window:?} {from} {to} of {zoned:?}");
    for inside in [from_us, from_us + 1, to_us - 1] {
        assert_eq!(window.bucket(zoned, inside), from_us, "{why}");
        assert_eq!(window.open_from(zoned, inside), from_us, "{why}");
    }
    assert!(window.bucket(zoned, from_us - 1) < from_us, "{why}");
    assert_eq!(window.bucket(zoned, to_us), to_us, "{why}");
    assert_eq!(window.open_from(zoned, to_us), to_us, "{why}");
    assert_eq!(window.closes(zoned, from_us), Some(to_us), "{why}");
}

#[test]
fn days_begin_and_end_at_the_tenants_midnight() {
    for (name, from, to) in [
        ("UTC", "2026-02-28T00:00:00Z", "2026-03-01T00:00:00Z"),
        (
            "Asia/Kolkata",
            "2026-12-31T18:30:00Z",
            "2027-01-01T18:30:00Z",
        ),
        // The clocks go forward: 23 hours.
        (
            "America/New_York",
            "2026-03-08T05:00:00Z",
            "2026-03-09T04:00:00Z",
        ),
        // And back: 25 hours.
        (
            "America/New_York",
            "2026-11-01T04:00:00Z",
            "2026-11-02T05:00:00Z",
        ),
        (
            "Pacific/Chatham",
            "2026-04-04T10:15:00Z",
            "2026-04-05T11:15:00Z",
        ),
        (
            "Pacific/Chatham",
            "2026-09-26T11:15:00Z",
            "2026-09-27T10:15:00Z",
        ),
        // By half an hour only.
        (
            "Australia/Lord_Howe",
            "2026-04-04T13:00:00Z",
            "2026-04-05T13:30:00Z",
        ),
        (
            "Australia/Lord_Howe",
            "2026-10-03T13:30:00Z",
            "2026-10-04T13:00:00Z",
        ),
        // The clocks go forward at midnight: the day begins at one.
        (
            "America/Havana",
            "2026-03-08T05:00:00Z",
            "2026-03-09T04:00:00Z",
        ),
        // A day that this zone never had.
        (
            "Pacific/Apia",
            "2011-12-29T10:00:00Z",
            "2011-12-30T10:00:00Z",
        ),
    ] {
        is_bucket(Window::Day, &Zoned::always(zone(name)), from, to);
    }
}

#[test]
fn months_begin_and_end_at_the_tenants_midnight() {
    for (name, from, to) in [
        ("UTC", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"),
        (
            "Asia/Kolkata",
            "2026-12-31T18:30:00Z",
            "2027-01-31T18:30:00Z",
        ),
        (
            "America/New_York",
            "2026-03-01T05:00:00Z",
            "2026-04-01T04:00:00Z",
        ),
        (
            "America/New_York",
            "2026-11-01T04:00:00Z",
            "2026-12-01T05:00:00Z",
        ),
        (
            "Pacific/Chatham",
            "2026-03-31T10:15:00Z",
            "2026-04-30T11:15:00Z",
        ),
        (
            "Pacific/Chatham",
            "2026-08-31T11:15:00Z",
            "2026-09-30T10:15:00Z",
        ),
        (
            "Australia/Lord_Howe",
            "2026-03-31T13:00:00Z",
            "2026-04-30T13:30:00Z",
        ),
        (
            "Australia/Lord_Howe",
            "2026-09-30T13:30:00Z",
            "2026-10-31T13:00:00Z",
        ),
    ] {
        is_bucket(Window::Month, &Zoned::always(zone(name)), from, to);
    }
}

fn changed(before: &str, at_text: &str, after: &str) -> Zoned {
    let change_us = at(at_text);
    let before = zone(before);
    assert_eq!(before.start_of_month(change_us), change_us);
    Zoned {
        zone: before,
        change: Some((change_us, zone(after))),
    }
}

/// In the new zone it is the evening of the first already: its first day and month are short.
#[test]
fn a_change_to_an_earlier_zone_cuts_its_first_day_and_month() {
    let (before, change, after) = (
        "America/New_York",
        "2026-04-01T04:00:00Z",
        "Pacific/Chatham",
    );
    let zoned = changed(before, change, after);
    is_bucket(Window::Day, &zoned, "2026-03-31T04:00:00Z", change);
    is_bucket(Window::Day, &zoned, change, "2026-04-01T10:15:00Z");
    is_bucket(
        Window::Day,
        &zoned,
        "2026-04-01T10:15:00Z",
        "2026-04-02T10:15:00Z",
    );
    is_bucket(Window::Month, &zoned, "2026-03-01T05:00:00Z", change);
    is_bucket(Window::Month, &zoned, change, "2026-04-30T11:15:00Z");
    assert_eq!(zoned.at(at(change) - 1), &zone(before));
    assert_eq!(zoned.at(at(change)), &zone(after));
}

/// In the new zone it is still the last of the month before, which ended by the zone before: those
/// hours are no month of their own, with a quota of its own.
#[test]
fn a_change_to_a_later_zone_lengthens_its_first_day_and_month() {
    let (before, change, after) = (
        "Pacific/Chatham",
        "2026-03-31T10:15:00Z",
        "America/New_York",
    );
    let zoned = changed(before, change, after);
    is_bucket(Window::Day, &zoned, "2026-03-30T10:15:00Z", change);
    is_bucket(Window::Day, &zoned, change, "2026-04-02T04:00:00Z");
    is_bucket(
        Window::Day,
        &zoned,
        "2026-04-02T04:00:00Z",
        "2026-04-03T04:00:00Z",
    );
    is_bucket(Window::Month, &zoned, "2026-02-28T10:15:00Z", change);
    is_bucket(Window::Month, &zoned, change, "2026-05-01T04:00:00Z");
    is_bucket(
        Window::Month,
        &zoned,
        "2026-05-01T04:00:00Z",
        "2026-06-01T04:00:00Z",
    );
}

#[test]
fn a_part_of_a_sliding_window_counts_until_all_of_it_is_out() {
    let zoned = Zoned::always(Zone::utc());
    for (window, charged, bucket, counts, out) in [
        (
            Window::Minute,
            "2026-03-01T12:00:07.900Z",
            "2026-03-01T12:00:07Z",
            "2026-03-01T12:01:07.999999Z",
            "2026-03-01T12:01:08Z",
        ),
        (
            Window::Hour,
            "2026-03-01T12:00:07.900Z",
            "2026-03-01T12:00:00Z",
            "2026-03-01T13:00:59.999999Z",
            "2026-03-01T13:01:00Z",
        ),
    ] {
        let bucket = at(bucket);
        assert_eq!(window.bucket(&zoned, at(charged)), bucket);
        assert!(window.open_from(&zoned, at(counts)) <= bucket);
        assert!(window.open_from(&zoned, at(out)) > bucket);
        assert_eq!(window.closes(&zoned, bucket), Some(at(out)));
        assert!(window.slides());
    }
}

#[test]
fn what_does_not_end_has_one_bucket() {
    let zoned = Zoned::always(zone("Asia/Kolkata"));
    for window in [Window::Request, Window::Session, Window::Budget] {
        for time in ["2026-03-01T12:00:07.900Z", "2000-01-01T00:00:00Z"] {
            assert_eq!(window.bucket(&zoned, at(time)), 0);
            assert_eq!(window.open_from(&zoned, at(time)), 0);
        }
        assert_eq!(window.closes(&zoned, 0), None);
        assert!(!window.slides());
    }
}

const ZONES: [&str; 7] = [
    "UTC",
    "Asia/Kolkata",
    "America/New_York",
    "Pacific/Chatham",
    "Australia/Lord_Howe",
    "Pacific/Kiritimati",
    "Etc/GMT+12",
];

/// Any calendar, with a change of zone in about every second one: with a month, as changes are, or at
/// any time, so that windows agree whatever a ledger says.
fn calendars() -> impl Strategy<Value = Zoned> {
    let names = || proptest::sample::select(&ZONES[..]);
    let change = proptest::option::of((times(), proptest::bool::ANY, names()));
    (names(), change).prop_map(|(before, change)| {
        let before = zone(before);
        let change = change.map(|(at_us, any, after)| match any {
            true => (at_us, zone(after)),
            false => (before.next_month(at_us), zone(after)),
        });
        Zoned {
            zone: before,
            change,
        }
    })
}

/// Any time of the years 2025 to 2028.
fn times() -> std::ops::Range<i64> {
    at("2025-01-01T00:00:00Z")..at("2029-01-01T00:00:00Z")
}

/// Any length of time up to 100 days, short ones as often as long ones.
fn spans() -> impl Strategy<Value = i64> {
    prop_oneof![
        0..2 * MINUTE_US,
        0..2 * HOUR_US,
        0..60 * HOUR_US,
        0..2_400 * HOUR_US
    ]
}

proptest! {
    /// What `bucket` puts a charge into counts by `open_from` exactly until `closes`.
    #[test]
    fn bucket_open_from_and_closes_agree(
        zoned in calendars(),
        near in proptest::bool::ANY,
        any_us in times(),
        off_us in -30 * HOUR_US..60 * HOUR_US,
        span_us in spans(),
    ) {
        // Half of the charges are about where the zone changes.
        let charge_us = match &zoned.change {
            Some((change_us, _)) if near => change_us + off_us,
            _ => any_us,
        };
        for window in Window::ALL {
            let bucket = window.bucket(&zoned, charge_us);
            prop_assert_eq!(window.bucket(&zoned, bucket), bucket);
            prop_assert!(bucket <= charge_us);
            let later_us = charge_us + span_us;
            let open_from = window.open_from(&zoned, later_us);
            prop_assert!(open_from <= later_us);
            prop_assert_eq!(window.bucket(&zoned, open_from), open_from);
            prop_assert!(open_from >= window.open_from(&zoned, charge_us));
            let counts = bucket >= open_from;
            match window.closes(&zoned, bucket) {
                Some(closes_us) => {
                    prop_assert!(closes_us > charge_us);
                    prop_assert_eq!(counts, later_us < closes_us);
                    if !window.slides() {
                        // One span ends where the next begins.
                        prop_assert_eq!(window.bucket(&zoned, closes_us), closes_us);
                    }
                }
                None => prop_assert!(counts && bucket == 0),
            }
        }
    }

    /// Calls are admitted whenever the buckets that count have room. No 60 seconds (minutes), wherever
    /// they begin, then have more than the limit: no double burst at any boundary.
    #[test]
    fn no_span_has_more_than_the_limit(
        limit in 1_usize..20,
        hours in proptest::bool::ANY,
        start_us in times(),
        mut offsets in proptest::collection::vec(0_i64..4_000_000, 1..300),
    ) {
        let zoned = Zoned::always(Zone::utc());
        let (window, length_us, stretch) = if hours {
            (Window::Hour, HOUR_US, 3_600)
        } else {
            (Window::Minute, MINUTE_US, 60)
        };
        offsets.sort_unstable();
        let mut admitted: Vec<i64> = Vec::new();
        for offset in offsets {
            let now_us = start_us + offset * stretch;
            let open_from = window.open_from(&zoned, now_us);
            let counts = |charge_us: &&i64| window.bucket(&zoned, **charge_us) >= open_from;
            let used = admitted.iter().filter(counts).count();
            // What counts at the end of a span is never less than what the span has.
            let span = admitted.iter().filter(|charge_us| **charge_us >= now_us - length_us).count();
            prop_assert!(span <= used);
            if used < limit {
                admitted.push(now_us);
            }
        }
        for (n, from_us) in admitted.iter().enumerate() {
            let within = admitted[n..].iter().filter(|us| **us <= from_us + length_us).count();
            prop_assert!(within <= limit, "{within} calls from {from_us} on, the limit is {limit}");
        }
    }
}
