//! One SQLite connection for each of rayon's threads, its prepared statements kept with it.
//!
//! ```text
//! cargo run --example rayon_sqlite
//! ```

use std::time::Duration;
use std::{env, fs, process};

use anyhow::{Context as _, Result};
use rayon::prelude::*;
use rusqlite::{Connection, OpenFlags, params};
use sessile::{Pool, Registry, try_from_fn};

const SHOPS: i64 = 500;
const SALES: i64 = 40_000;

pub(crate) fn main() -> Result<()> {
    let path = env::temp_dir().join(format!("sessile-example-{}.db", process::id()));
    fill(&mut Connection::open(&path)?)?;

    // A `Connection` is `Send` but not `Sync`: threads cannot share one, and there is no telling which
    // threads rayon will use. So each opens its own, the first time it has a query.
    let file = path.clone();
    let connections = Pool::builder(try_from_fn(move |_| {
        Connection::open_with_flags(&file, OpenFlags::SQLITE_OPEN_READ_ONLY)
    }))
    .name("sales.db")
    .build()?;

    let workers = rayon::ThreadPoolBuilder::new()
        .num_threads(4)
        .thread_name(|index| format!("rayon-{index}"))
        .build()?;
    let total: i64 = workers.install(|| {
        let shops = (0..SHOPS).into_par_iter();
        // `turnover` does not call into rayon: if it did, the waiting thread might take up another
        // shop in the midst of this one, and be refused.
        let turnovers = shops.map(|shop| connections.with(|db| turnover(db, shop))?);
        turnovers.sum::<Result<i64>>()
    })?;

    println!("{}\n", Registry::global().snapshot());

    let query = "SELECT sum(cents) FROM sale";
    let alone: i64 = Connection::open(&path)?.query_row(query, [], |row| row.get(0))?;
    assert_eq!(total, alone, "the threads together find what one query finds");
    println!("{SALES} sales in {SHOPS} shops: {}.{:02}\n", total / 100, total % 100);

    // From here, although the threads of rayon still live: the connections are idle, and `Send`.
    let report = connections.close(Duration::from_secs(5));
    println!("{report}");
    assert!(report.is_clean() && report.closed > 0);
    fs::remove_file(&path).context("nobody has the file open any more")
}

fn turnover(db: &mut Connection, shop: i64) -> Result<i64> {
    // Prepared once on each connection, and found in its cache from then on.
    let mut query = db.prepare_cached("SELECT cents FROM sale WHERE shop = ?1")?;
    let cents = query.query_map([shop], |row| row.get::<_, i64>(0))?;
    Ok(cents.sum::<rusqlite::Result<i64>>()?)
}

/// Fills the database, always with the same rows.
fn fill(db: &mut Connection) -> Result<()> {
    db.execute_batch("CREATE TABLE sale (shop INTEGER, cents INTEGER)")?;
    let all = db.transaction()?;
    let mut insert = all.prepare("INSERT INTO sale VALUES (?1, ?2)")?;
    for sale in 0..SALES {
        insert.execute(params![sale * 31 % SHOPS, sale * 7919 % 10_000])?;
    }
    drop(insert);
    all.execute_batch("CREATE INDEX sale_shop ON sale (shop)")?;
    Ok(all.commit()?)
}
