//! Which events an export takes, in the SQL of either backend.

use sqlx::{Database, Encode, QueryBuilder, Type};

use crate::ledger::log::ExportQuery;

/// The first lines of the events, in order of charge time, then position: their positions, numbers of
/// lines and charge times. `void_of` says, beside its position, what a void `v` has in common with the
/// line `l` that it takes out.
pub(crate) fn firsts<DB: Database>(
    tenant: &str,
    wanted: &ExportQuery,
    void_of: &'static str,
) -> QueryBuilder<DB>
where
    for<'q> String: Encode<'q, DB> + Type<DB>,
    for<'q> i64: Encode<'q, DB> + Type<DB>,
{
    let mut query = QueryBuilder::new(
        "SELECT position, line_count, charge_time FROM usage_lines AS l \
         WHERE line = 0 AND kind = 'usage' AND tenant_id = ",
    );
    query.push_bind(tenant.to_owned());
    query.push(" AND position <= ").push_bind(wanted.as_of);
    if !wanted.user_id.is_empty() {
        query
            .push(" AND user_id = ")
            .push_bind(wanted.user_id.clone());
    }
    if let Some(range) = wanted.range {
        query.push(" AND charge_time < ").push_bind(range.to_us);
        // The cursor, where there is one, is past the beginning already.
        if wanted.after.is_none() {
            query.push(" AND charge_time >= ").push_bind(range.from_us);
        }
    }
    if let Some((time, position)) = wanted.after {
        query.push(" AND charge_time >= ").push_bind(time);
        query
            .push(" AND (charge_time, position) > (")
            .push_bind(time);
        query.push(", ").push_bind(position).push(")");
    }
    if !wanted.include_voided {
        query
            .push(
                " AND NOT EXISTS (SELECT 1 FROM usage_lines AS v \
                 WHERE v.of_position = l.position AND v.kind = 'void' AND v.position <= ",
            )
            .push_bind(wanted.as_of)
            .push(void_of)
            .push(")");
    }
    query
        .push(" ORDER BY charge_time, position LIMIT ")
        .push_bind(wanted.limit);
    query
}
