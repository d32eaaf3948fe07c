//! The whole price file of litellm is read, and every entry is accounted for.
//! `cargo test -p tokenmeter-model --test litellm_file -- --nocapture` prints the counts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests, too, may stop at the first surprise"
)]

use std::collections::{BTreeMap, BTreeSet};

use tokenmeter_model::bounds::MIN_TIME_US;
use tokenmeter_model::price::{Book, Price, file, litellm};

mod shared_data;

/// Entries of litellm 1.109.1's file.
const ENTRIES: usize = 4_553;

#[test]
fn every_entry_becomes_a_price_or_is_listed() {
    let Some(path) = shared_data::litellm_path() else {
        return;
    };
    let text = shared_data::read_gz(&path);
    let import = litellm::read(&text).unwrap();
    assert_eq!(import.read, ENTRIES);

    let mut entries: BTreeMap<String, usize> = BTreeMap::new();
    let mut fields: BTreeMap<String, (usize, BTreeSet<&str>)> = BTreeMap::new();
    for unmapped in &import.unmapped {
        let reason = unmapped.reason.to_string();
        if unmapped.field.is_empty() {
            *entries.entry(reason).or_default() += 1;
        } else {
            let (count, names) = fields.entry(reason).or_default();
            *count += 1;
            names.insert(unmapped.field.split(['[', '.']).next().unwrap_or_default());
        }
    }
    println!("entries read: {}", import.read);
    println!("entries that became a price: {}", import.prices.len());
    for (reason, count) in &entries {
        println!("entries without a price, {reason}: {count}");
    }
    for (reason, (count, names)) in &fields {
        println!(
            "price fields not mapped, {reason}: {count} ({} names)",
            names.len()
        );
    }

    let without: BTreeSet<_> = import
        .unmapped
        .iter()
        .filter(|unmapped| unmapped.field.is_empty())
        .map(|unmapped| unmapped.key.clone())
        .collect();
    let with: BTreeSet<_> = import
        .prices
        .iter()
        .map(|price| price.source.split_once(": ").unwrap().1.to_owned())
        .collect();
    assert!(with.is_disjoint(&without));
    let accounted: BTreeSet<_> = with.union(&without).cloned().collect();
    let all: BTreeMap<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
    assert!(accounted.iter().eq(all.keys()));
    assert_eq!(import.prices.len() + without.len(), ENTRIES);
    // The figures of docs/pricing.md.
    assert_eq!(import.prices.len(), 3_638);
}

#[test]
fn imported_prices_are_sound_and_survive_a_price_file() {
    let Some(path) = shared_data::litellm_path() else {
        return;
    };
    let prices = litellm::read(&shared_data::read_gz(&path)).unwrap().prices;
    let mut violations = Vec::new();
    for price in &prices {
        price.check("price", &mut violations);
    }
    assert_eq!(violations, []);
    assert_eq!(file::parse(&file::write(&prices)).unwrap(), prices);
    let json = serde_json::to_string(&prices).unwrap();
    assert_eq!(serde_json::from_str::<Vec<Price>>(&json).unwrap(), prices);
    let book = Book::new(prices.clone());
    assert_eq!(book.len(), prices.len());
    for price in &prices {
        assert_eq!(
            book.find(&price.provider, &price.model, MIN_TIME_US),
            Some(price)
        );
    }
}
