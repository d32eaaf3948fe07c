//! The service on a real ledger.

#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

mod support;

use std::collections::BTreeMap;

use tokenmeter_metering::Error;
use tokenmeter_model::bounds::MIN_TIME_US;
use tokenmeter_model::counts::{Line, TokenCounts};
use tokenmeter_model::event::{Draft, Event, ProviderUsage, Usage};
use tokenmeter_model::price::{Component, Price, Rates, TierRates};
use tokenmeter_model::tier::ServiceTier;

use support::{Service, service};

impl Service {
    async fn set_price(&self, provider: &str, pico_per_output_token: i64) {
        let base = Rates::from_iter([(Component::Output, pico_per_output_token)]);
        let price = Price {
            provider: provider.into(),
            model: "new".into(),
            effective_from_us: MIN_TIME_US,
            version: 0,
            source: "test".into(),
            tiers: BTreeMap::from([(
                ServiceTier::Standard,
                TierRates {
                    base,
                    long_context: Vec::new(),
                },
            )]),
            fees: BTreeMap::new(),
        };
        self.ledger
            .add_prices(Some(&self.caller.tenant), vec![price], 0)
            .await
            .unwrap();
        self.books.invalidate();
    }
}

fn draft(provider: &str, output: i64) -> Draft {
    let line = Line {
        model: "new".into(),
        counts: TokenCounts {
            output,
            ..TokenCounts::default()
        },
        tool_requests: BTreeMap::new(),
    };
    Draft {
        event: Event {
            event_id: "e".into(),
            provider: provider.into(),
            ..Event::default()
        },
        usage: Some(Usage::Lines(vec![line])),
    }
}

#[tokio::test]
async fn a_retry_finds_its_first_answer_whatever_the_price_is_by_now() {
    let service = service().await;
    let sent = draft("openai", 1_000_000_000);
    let first = service
        .metering
        .record(&service.caller, Ok(sent.clone()), false)
        .await
        .unwrap();
    assert_eq!((first.duplicate, &first.quotes[..]), (false, &[None][..]));
    assert_eq!(first.event.user_id, "ann");

    // At this price the same line would cost more than a line may.
    service.set_price("openai", 10_000_000_000).await;
    let again = service
        .metering
        .record(&service.caller, Ok(sent), false)
        .await
        .unwrap();
    assert!(again.duplicate);
    assert_eq!((again.event, again.quotes), (first.event, first.quotes));

    let other = draft("openai", 7);
    match service
        .metering
        .record(&service.caller, Ok(other), false)
        .await
    {
        Err(Error::Conflict {
            event_id,
            differing,
        }) => {
            assert_eq!((event_id.as_str(), &differing[..]), ("e", &["lines"][..]));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_provider_is_known_or_has_a_price() {
    let service = service().await;
    let sent = draft("house", 1_000);
    match service
        .metering
        .record(&service.caller, Ok(sent.clone()), false)
        .await
    {
        Err(Error::UnknownProvider(field, name)) => {
            assert_eq!((field, name.as_str()), ("provider", "house"));
        }
        other => panic!("{other:?}"),
    }
    service.set_price("house", 2_000_000).await;
    let recorded = service
        .metering
        .record(&service.caller, Ok(sent), false)
        .await
        .unwrap();
    assert_eq!(recorded.quotes[0].unwrap().cost_nano_usd, 2_000_000);
}

#[tokio::test]
async fn what_a_document_says_fills_what_the_caller_left_empty() {
    let service = service().await;
    let document = r#"{"id": "chatcmpl-1", "created": 1790000000, "model": "gpt-4o-mini",
        "service_tier": "default", "usage": {"prompt_tokens": 10, "completion_tokens": 2,
        "total_tokens": 12, "prompt_tokens_details": {"cached_tokens": 4}}}"#;
    let draft = Draft {
        event: Event {
            provider: "azure".into(),
            ..Event::default()
        },
        usage: Some(Usage::Provider(ProviderUsage {
            documents: vec![document.into()],
            ..ProviderUsage::default()
        })),
    };
    let recorded = service
        .metering
        .record(&service.caller, Ok(draft), false)
        .await
        .unwrap();
    let event = recorded.event;
    assert_eq!(
        (event.event_id.as_str(), event.provider.as_str()),
        ("chatcmpl-1", "azure.ai.openai")
    );
    assert_eq!(event.request_time_us, Some(1_790_000_000_000_000));
    assert_eq!(recorded.charge_time_us, 1_790_000_000_000_000);
    assert_eq!(
        (
            event.lines[0].counts.input,
            event.lines[0].counts.cache_read
        ),
        (6, 4)
    );
}
