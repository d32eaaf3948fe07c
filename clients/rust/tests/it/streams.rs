//! Recorder and subscription against the built binary, which is killed and started again meanwhile.

use tokenmeter_client::v1::Interval;
use tokenmeter_client::{Client, Event, Options, RecorderOptions, v1};
use tokenmeter_tests::{Server, Start};

use crate::fake::ms;
use crate::server::event;

/// A client that goes on trying for as long as a server takes to start.
async fn client(server: &Server) -> Client {
    let options = Options::new(server.address().to_string())
        .attempts(1_000)
        .backoff(ms(20), ms(200));
    Client::connect(options).await.unwrap()
}

/// Kills a server and starts it again at the same address, on the same ledger.
async fn restart(server: Server) -> Server {
    let start = Start::new(server.folder()).listen(server.address());
    drop(server);
    tokio::task::spawn_blocking(move || start.serve())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recorder_records_each_event_once_though_its_server_is_killed() {
    const EVENTS: usize = 3_000;
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    let client = client(&server).await;
    let recorder = client.recorder(RecorderOptions {
        capacity: 500,
        ..Default::default()
    });
    let mut receipts = Vec::new();
    for n in 0..EVENTS {
        receipts.push(recorder.record(event(&format!("e-{n}"))).await.unwrap());
        if n % 1_000 == 700 {
            server = restart(server).await;
        }
    }
    recorder.close().await.unwrap();
    for (n, receipt) in receipts.into_iter().enumerate() {
        assert_eq!(receipt.await.unwrap().event_id, format!("e-{n}"));
    }
    let usage = client.user_usage("ada", &[Interval::Lifetime]).await;
    let totals = usage.unwrap().intervals.remove(0).totals.unwrap();
    assert_eq!(totals.requests, 3_000);
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_sees_each_event_once_and_in_order_though_its_server_is_killed() {
    const ROUNDS: usize = 4;
    const EACH: usize = 200;
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    let client = client(&server).await;
    let mut events = client
        .events(v1::EventFilter::default(), "")
        .heartbeat(ms(1_000));
    events.begin().await.unwrap();
    for round in 0..ROUNDS {
        let ids: Vec<_> = (0..EACH).map(|n| format!("e-{round}-{n}")).collect();
        let batch = ids.iter().map(|id| event(id)).collect();
        for result in client.record_batch(batch).await.unwrap() {
            result.unwrap();
        }
        // Half of a round is read before the server is killed, and half after.
        for (n, id) in ids.iter().enumerate() {
            if n == EACH / 2 {
                server = restart(server).await;
            }
            match events.next().await.unwrap() {
                Event::UsageRecorded(event) => assert_eq!(event.event_id, *id),
                other => panic!("{other:?}"),
            }
        }
    }
    drop(server);
}
