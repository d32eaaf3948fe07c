//! What happens to servers: they are restarted, dumped, restored, taken back.

use super::*;
use tokenmeter_test_postgres::{Server, restore_dump, sql};

/// Nodes go on when the server crashed in the middle of their work: what was acknowledged is in the log,
/// once, in the order that subscribers see; and tokens of before are good.
pub async fn a_crash_of_the_server_loses_nothing() {
    let server = Server::start();
    let url = server.database("crash");
    let nodes = [node(&url).await, node(&url).await];
    let mut followers = nodes.each_ref().map(|node| follow(node, 0));
    send(&*nodes[0], "a", "before", 1, true).await;
    for follower in &mut followers {
        assert_eq!(ids(follower, 1).await, ["before"]);
    }
    let (opening, position) = (nodes[0].opening(), nodes[0].last_position().await.unwrap());
    let writers = [0, 1].map(|n| {
        let node = Arc::clone(&nodes[n]);
        tokio::spawn(async move {
            for e in 0..150 {
                persist(&*node, &format!("{n}-{e}")).await;
            }
        })
    });
    wait_for(&nodes[0], position).await;
    server.crash();
    server.start_again();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_ne!(nodes[0].opening(), opening);
    assert!(nodes[1].holds(&opening, position).await.unwrap());
    let first = next(&mut followers[0], 300).await;
    assert!(first.is_sorted_by(|one, next| one.position < next.position));
    assert_eq!(next(&mut followers[1], 300).await, first);
    let mut seen: Vec<_> = first.iter().map(|entry| id(entry).to_owned()).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 300);
}

/// Waits until something was committed after a position.
async fn wait_for(node: &Arc<dyn Ledger>, position: i64) {
    let mut committed = node.committed();
    let further = committed.wait_for(|at| *at > position);
    let further = tokio::time::timeout(PATIENCE, further).await;
    further.unwrap().unwrap();
}

/// A dump restored into another server is another ledger: it has all that the dump has, what is recorded
/// there comes after it, and positions of the first one are not taken for its own.
pub async fn a_restored_dump_is_another_ledger() {
    let (from, into) = (Server::start(), Server::start());
    let (url, restored) = (from.database("from"), into.database("into"));
    // The other server has given out far fewer transaction ids.
    sql(
        &url,
        "DO $$ BEGIN FOR n IN 1..3000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$",
    );
    let first = node(&url).await;
    for n in 0..5 {
        send(&*first, "a", &format!("e{n}"), 2, true).await;
    }
    take_out(&*first, "e3").await;
    let entries = whole(&*first, "a", 256).await;
    let position = first.last_position().await.unwrap();
    let opening = first.opening();
    restore_dump(&url, &restored);

    let second = node(&restored).await;
    assert_ne!(second.epoch(), first.epoch());
    assert_ne!(second.secret(), first.secret());
    assert!(!second.holds(&opening, position).await.unwrap());
    assert!(!second.holds(&opening, 0).await.unwrap());
    assert_eq!(whole(&*second, "a", 256).await, entries);
    let mut follower = follow(&second, second.last_position().await.unwrap());
    let next = send(&*second, "a", "new", 1, true).await;
    assert!(next > position, "{next} is not after {position}");
    assert_eq!(ids(&mut follower, 1).await, ["new"]);
    let names = ["e0", "e1", "e2", "e3", "e4", "e3", "new"];
    assert_eq!(second.ledger_entries().await, names);
    let now = second.last_position().await.unwrap();
    assert!(second.holds(&second.opening(), now).await.unwrap());
    // Opened again it is the same ledger.
    let again = node(&restored).await;
    assert_eq!(again.epoch(), second.epoch());
    assert_eq!(again.opening(), second.opening());
    // Who records on the first one goes on there.
    assert!(first.holds(&opening, position).await.unwrap());
}

/// A dump restored over the very database that it is of is another ledger, too: what was recorded after
/// the dump was made is undone, and who has seen it is told.
pub async fn a_dump_restored_over_its_own_database_is_another_ledger(url: &str, copy: &str) {
    let first = node(url).await;
    send(&*first, "a", "kept", 1, true).await;
    restore_dump(url, copy);
    send(&*first, "a", "undone", 1, true).await;
    let position = first.last_position().await.unwrap();
    let (opening, epoch) = (first.opening(), first.epoch().to_owned());
    first.close().await;
    sql(url, "DROP SCHEMA public CASCADE; CREATE SCHEMA public");
    restore_dump(copy, url);

    let second = node(url).await;
    assert_ne!(second.epoch(), epoch);
    assert!(!second.holds(&opening, position).await.unwrap());
    let next = send(&*second, "a", "new", 1, true).await;
    assert!(next > position, "{next} is not after {position}");
    assert_eq!(second.ledger_entries().await, ["kept", "new"]);
}

/// A node whose URL leads to another database all of a sudden does not write to it, and says so.
pub async fn another_database_is_not_written_to(url: &str, aside: &str, copy: &str) {
    let one = node(url).await;
    send(&*one, "a", "e", 1, true).await;
    restore_dump(url, copy);
    let name = |url: &str| url.rsplit('/').next().unwrap().to_owned();
    let (here, aside, copy) = (name(url), name(aside), name(copy));
    let admin = server::shared().url();
    sql(admin, &format!("DROP DATABASE {aside}"));
    // Nobody may be connected while a database is renamed, and nodes connect again at once.
    sql(admin, &format!("ALTER DATABASE {here} CONNECTION LIMIT 0"));
    sql(
        admin,
        &format!("ALTER DATABASE {here} ALLOW_CONNECTIONS FALSE"),
    );
    let rename = format!("ALTER DATABASE {here} RENAME TO {aside}");
    let end = format!(
        "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE datname = '{here}'"
    );
    sql(admin, &end);
    sql(admin, &rename);
    sql(admin, &format!("ALTER DATABASE {copy} RENAME TO {here}"));
    let deadline = Instant::now() + PATIENCE;
    loop {
        let one_more = submission("a", event("other", "u"), 100, T0);
        let refused = one.record(vec![one_more].into()).await;
        let error = refused.unwrap_err().to_string();
        if error.contains("leads to another database") {
            break;
        }
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(sql(url, "SELECT count(*) FROM event_keys"), "1");
}

/// The server is put back to an older copy of itself while nodes run, as by a restored backup or a
/// standby that lacked the last transactions. What was given out after the copy is told from what came
/// later in its place.
pub async fn positions_of_an_undone_past_are_told() {
    let server = Server::start();
    let url = server.database("back");
    let one = node(&url).await;
    send(&*one, "a", "kept", 1, true).await;
    let (opening, kept) = (one.opening(), one.last_position().await.unwrap());
    server.stop();
    server.keep_copy();
    server.start_again();
    persist(&*one, "lost").await;
    persist(&*one, "lost too").await;
    let (second, lost) = (one.opening(), one.last_position().await.unwrap());
    assert_ne!(second, opening);
    let mut follower = follow(&one, 0);
    assert_eq!(ids(&mut follower, 3).await, ["kept", "lost", "lost too"]);
    server.stop();
    server.put_back_copy();
    server.start_again();

    // Whoever followed is sent away.
    let ended = async { while follower.subscription.next().await.is_ok() {} };
    tokio::time::timeout(PATIENCE, ended).await.unwrap();
    persist(&*one, "instead").await;
    assert!(one.holds(&opening, kept).await.unwrap());
    // The copy knows nothing of the opening in which it was lost.
    assert!(!one.holds(&second, lost).await.unwrap());
    let now = one.last_position().await.unwrap();
    assert!(one.holds(&one.opening(), now).await.unwrap());
    // Who begins, or comes back with what is kept, sees nothing of what is gone.
    assert_eq!(ids(&mut follow(&one, kept), 1).await, ["instead"]);
    assert_eq!(ids(&mut follow(&one, 0), 2).await, ["kept", "instead"]);
    assert_eq!(one.ledger_entries().await, ["kept", "instead"]);
    assert!(now >= *one.committed().borrow(), "it is still far ahead");
}
