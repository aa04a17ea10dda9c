//! Settings of limits, and what people see of limit keys.

use queue_core::backend::LIMITS_MAX;
use queue_core::{
    DRIFT_LOOKS_MAX, Error, HOLDERS_SHOWN_MAX, LimitKey, LimitSettings, LimitStatus, LimitTarget,
    Timestamp,
};
use redis::Value;

use super::RedisBackend;
use crate::record::{pack_settings, unpack_settings, unpack_state};
use crate::reply::{self, Items, unexpected};
use crate::scripts;
use crate::store::{self, Call, Repeat};

pub(super) async fn set(
    backend: &RedisBackend,
    target: &LimitTarget,
    settings: Option<&LimitSettings>,
) -> Result<bool, Error> {
    let packed = settings.map(pack_settings).unwrap_or_default();
    let mut cmd = scripts::set_limit.call(&backend.keys, 3, 256);
    cmd.arg(target.to_string()).arg(packed).arg(LIMITS_MAX);
    let call = Call::script(&scripts::set_limit, cmd);
    match store::one(&backend.link, call, Repeat::Freely).await? {
        Value::Int(-1) => Err(Error::BadRequest(format!(
            "{LIMITS_MAX} limits are set; use class defaults such as tenant:*, or remove some"
        ))),
        Value::Int(changed) => Ok(changed == 1),
        _ => Err(unexpected("not a number")),
    }
}

pub(super) async fn reset(backend: &RedisBackend, key: &LimitKey) -> Result<bool, Error> {
    let mut cmd = scripts::reset_limit.call(&backend.keys, 1, 128);
    cmd.arg(key.as_str());
    let call = Call::script(&scripts::reset_limit, cmd);
    match store::one(&backend.link, call, Repeat::Freely).await? {
        Value::Int(was_closed) => Ok(was_closed == 1),
        _ => Err(unexpected("not a number")),
    }
}

pub(super) async fn all(
    backend: &RedisBackend,
) -> Result<Vec<(LimitTarget, LimitSettings)>, Error> {
    let mut cmd = redis::cmd("HGETALL");
    cmd.arg(backend.keys.limits());
    let reply = store::one(&backend.link, Call::plain(cmd), Repeat::Freely).await?;
    let mut fields = reply::array(reply)?.into_iter();
    let mut all = Vec::new();
    while let (Some(target), Some(settings)) = (fields.next(), fields.next()) {
        let (target, settings) = (reply::bytes(target)?, reply::bytes(settings)?);
        let target = std::str::from_utf8(&target).ok().and_then(|text| text.parse().ok());
        let read = target.and_then(|target: LimitTarget| {
            let settings = unpack_settings(&target, &settings)?;
            Some((target, settings))
        });
        match read {
            Some(set) => all.push(set),
            // It limits nothing; an audit names it.
            None => {
                tracing::warn!(event = "limit_unreadable", "settings of a limit cannot be read");
            }
        }
    }
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(all)
}

pub(super) async fn status(
    backend: &RedisBackend,
    keys: &[LimitKey],
) -> Result<Vec<LimitStatus>, Error> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let mut cmd = scripts::limit_status.call(&backend.keys, 2 + keys.len(), keys.len() * 32);
    cmd.arg(HOLDERS_SHOWN_MAX).arg(DRIFT_LOOKS_MAX);
    for key in keys {
        cmd.arg(key.as_str());
    }
    let call = Call::script(&scripts::limit_status, cmd);
    let mut items = Items::of(store::one(&backend.link, call, Repeat::Freely).await?)?;
    let now = items.timestamp()?;
    keys.iter().zip(items.rest()).map(|(key, item)| read(key, Items::of(item)?, now)).collect()
}

fn read(key: &LimitKey, mut items: Items, now: Timestamp) -> Result<LimitStatus, Error> {
    let targets = [LimitTarget::Key(key.clone()), LimitTarget::class_of(key)];
    let mut in_force = None;
    for target in targets {
        let packed = items.bytes()?;
        in_force = in_force.or_else(|| {
            let settings = unpack_settings(&target, &packed)?;
            Some((target, settings))
        });
    }
    let (state, _) = unpack_state(&items.bytes()?).unwrap_or_default();
    let mut status = LimitStatus::new(key.clone());
    status.running = items.count()?;
    // Whatever else damage has put there is no id.
    let ids = items.bytes()?;
    status.holders = ids.chunks_exact(16).filter_map(|id| reply::id(id).ok()).collect();
    status.live = items.count()?;
    status.drift = items.count()?;
    let settings = in_force.as_ref().map(|(_, settings)| settings.clone()).unwrap_or_default();
    let running = u32::try_from(status.running).unwrap_or(u32::MAX);
    status.settings = in_force;
    status.allowed = state.allowed(&settings, now);
    status.breaker = state.breaker_phase(&settings, now);
    status.blocked = state.room(&settings, running, now).blocked;
    status.scheduled_us = state.ahead_us(now);
    Ok(status)
}
