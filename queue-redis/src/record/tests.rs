use super::*;
use queue_core::NewJob;

fn job() -> JobSpec {
    NewJob::new(Kind::new("email.send").unwrap(), Payload::raw(&b"\0\xff!"[..]))
        .queue("bulk")
        .priority(2)
        .max_attempts(300)
        .max_stalls(4)
        .idempotency_key("key")
        .expires_at(std::time::UNIX_EPOCH + Duration::from_millis(0x0102_0304_0506))
        .retention(Retention {
            completed: Duration::from_secs(5),
            dead: Duration::from_secs(0x0a0b_0c0d),
        })
        .schema_version(3)
        .spec
}

/// Stored records outlive a version of this program: these bytes must not change.
#[test]
fn a_job_has_these_bytes() {
    let expected: &[&[u8]] = &[
        &[EXPIRING, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 7],
        &[0, 0, 0, 3, 0, 3, 0, 4, 10, 2, 1, 44, 4],
        &[0, 0, 0, 5, 10, 11, 12, 13, 1, 1, 2, 3, 4, 5, 6],
        b"bulkemail.sendkey\0\xff!",
        b"\x81\xaeschema_version\x03",
    ];
    let packed = pack_job(&job(), true, 7);
    assert_eq!((packed.record, packed.body), (expected.concat(), None));
}

#[test]
fn a_job_that_does_not_expire_has_these_bytes() {
    let mut spec = job();
    spec.expires_at = None;
    let expected: &[&[u8]] = &[
        &[LASTING, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 7],
        &[0, 0, 0, 3, 0, 3, 0, 4, 10, 2, 1, 44, 4],
        &[0, 0, 0, 5, 10, 11, 12, 13, 0],
        b"bulkemail.sendkey\0\xff!",
        b"\x81\xaeschema_version\x03",
    ];
    let packed = pack_job(&spec, true, 7);
    assert_eq!(packed.record, expected.concat());
    let stored = unpack_job(spec.id, packed.record.clone(), Vec::new()).unwrap();
    assert_eq!((stored.spec, stored.due_at), (spec.clone(), Timestamp::from_ms(7)));
    // As versions before this one wrote it.
    let (head, names) = packed.record.split_at(FLAGS_AT + 1);
    let long = [&[EXPIRING][..], &head[1..], &[0; EXPIRY_BYTES], names].concat();
    assert_eq!(unpack_job(spec.id, long, Vec::new()).unwrap().spec, spec);
}

#[test]
fn a_job_with_limit_keys_has_these_bytes() {
    let mut spec = job();
    spec.limits = LimitKeys::parse(["tenant:a", "provider:x"]).unwrap();
    spec.hold = Hold::AtLeast(Duration::from_millis(0x0a0b));
    let expected: &[&[u8]] = &[
        &[EXPIRING + 1, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 7],
        &[0, 0, 0, 3, 0, 3, 0, 4, 10, 2, 1, 44, 4],
        &[0, 0, 0, 5, 10, 11, 12, 13, 1 + 8 + 16, 1, 2, 3, 4, 5, 6],
        b"bulkemail.sendkey\0\0\0\0\x0a\x0b",
        b"\0\x13provider:x,tenant:a\0\xff!",
        b"\x81\xaeschema_version\x03",
    ];
    let packed = pack_job(&spec, true, 7);
    assert_eq!(packed.record, expected.concat());
    let whole = packed.record;
    assert_eq!(unpack_job(spec.id, whole.clone(), Vec::new()).unwrap().spec, spec);
    let lane = "bulk/email.send/2/provider:x,tenant:a";
    assert_eq!(unpack_head(&whole).unwrap().lane, lane);
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 0xff;
        let _ = unpack_job(spec.id, flipped, Vec::new());
        assert!(unpack_job(spec.id, whole[..at].to_vec(), Vec::new()).is_err(), "cut at {at}");
    }
    assert!(split("tenant:a,provider:x").is_none() && split("").is_none());
}

#[test]
fn a_usual_job_has_a_brief_record() {
    let usual = NewJob::new(Kind::new("send").unwrap(), Payload::raw(&b"\0\xff!"[..])).spec;
    let expected = b"\x05\0\0\0\0\0\x07\0\x03\x85\0\x04send\0\xff!";
    assert_eq!(pack_job(&usual, true, 7).record, expected);
    assert_eq!(pack_job(&usual, false, 7).record[0], LASTING);

    let mut limited = usual.clone();
    // It could be taken for options.
    limited.payload = Payload::from_parts(Codec::Msgpack, Bytes::from_static(b"\x80"));
    limited.priority = Priority::new(9).unwrap();
    limited.retention.completed = Duration::ZERO;
    limited.limits = LimitKeys::parse(["tenant:a"]).unwrap();
    let expected = b"\x06\0\0\0\0\0\x07\0\x01\x29\0\x04send\0\x08tenant:a\x80";
    assert_eq!(pack_job(&limited, true, 7).record, expected);
    for spec in [usual, limited] {
        let brief = pack_job(&spec, true, 7).record;
        let unpack = |bytes| unpack_job(spec.id, bytes, Vec::new());
        let whole = unpack(pack_job(&spec, false, 7).record);
        assert_eq!(unpack(brief.clone()).unwrap().spec, spec);
        assert_eq!(unpack(brief.clone()), whole);
        for at in 0..brief.len() {
            assert!(unpack(brief[..at].to_vec()).is_err(), "cut at {at}");
            let mut flipped = brief.clone();
            flipped[at] ^= 0xff;
            let _ = unpack(flipped);
        }
        for more in [b"\0", b"\x80"] {
            assert!(unpack([&brief[..], more].concat()).is_err());
        }
        let mut shorter = brief;
        shorter[8] -= 1;
        assert!(unpack(shorter).is_err());
    }
}

#[test]
fn an_unusual_job_has_a_whole_record() {
    let new = || NewJob::new(Kind::new("a").unwrap(), Payload::raw(vec![7; 1023]));
    let usual = Retention::default();
    let brief = [new(), new().retention(Retention { completed: Duration::ZERO, ..usual })];
    let whole = [
        NewJob::new(Kind::new("a").unwrap(), Payload::raw(vec![7; 1024])),
        new().max_attempts(9),
        new().max_stalls(1),
        new().idempotency_key("k"),
        new().expires_at(std::time::UNIX_EPOCH),
        new().retention(Retention { completed: Duration::from_secs(1), ..usual }),
        new().retention(Retention { dead: Duration::ZERO, ..usual }),
        new().schema_version(1),
    ];
    let version = |job: &NewJob| pack_job(&job.spec, true, 7).record[0];
    assert!(brief.iter().all(|job| version(job) == BRIEF));
    assert!(whole.iter().all(|job| version(job) < BRIEF));
}

#[test]
fn a_large_job_has_its_body_apart_and_only_that() {
    let options = job().options.encode();
    let filling = |bytes: usize| {
        let mut spec = job();
        spec.payload = Payload::raw(vec![7; bytes - options.len()]);
        spec
    };
    let (small, large) = (filling(INLINE_MAX_BYTES), filling(INLINE_MAX_BYTES + 1));
    let inline = pack_job(&small, true, 7);
    assert_eq!(inline.body, None);
    let apart = pack_job(&large, true, 7);
    assert_eq!(apart.bytes(), inline.bytes() + 1);
    let body = apart.body.unwrap();
    assert_eq!(body, [large.payload.bytes().as_ref(), options.as_slice()].concat());
    let mut head = inline.record[..inline.record.len() - INLINE_MAX_BYTES].to_vec();
    head[16] += 1; // the payload's length
    head[FLAGS_AT] |= BODY_APART;
    assert_eq!(apart.record, head);

    let stored = unpack_job(large.id, head.clone(), body.clone()).unwrap();
    assert_eq!(stored.spec, large);
    for kept in [0, large.payload.bytes().len() - 1] {
        let lost = unpack_job(large.id, head.clone(), body[..kept].to_vec()).unwrap_err();
        assert!(lost.contains("payload"), "{lost}");
    }
}

#[test]
fn a_job_survives_its_record() {
    let id = JobId::new();
    let mut expected = job();
    expected.id = id;
    let stored = unpack_job(id, pack_job(&expected, true, 7).record, Vec::new()).unwrap();
    assert_eq!(stored.spec, expected);
    assert_eq!((stored.enqueued_at.as_ms(), stored.due_at.as_ms()), (7, 7));
}

#[test]
fn damaged_records_are_errors_and_never_panics() {
    let whole = pack_job(&job(), true, 7).record;
    let unpack = |bytes| unpack_job(JobId::new(), bytes, Vec::new());
    for end in 0..whole.len() {
        assert!(unpack(whole[..end].to_vec()).is_err(), "cut at {end}");
    }
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 0xff;
        let _ = unpack(flipped);
    }
    // A payload that could be taken for options.
    let mut spec = job();
    spec.payload = Payload::from_parts(Codec::Msgpack, Bytes::from_static(b"\x81\xa0\x01"));
    let mut shorter = pack_job(&spec, true, 7).record;
    shorter[16] = 0;
    assert!(unpack(shorter).is_err());
    let mut newer = whole;
    newer[0] = LAST_VERSION + 1;
    let error = unpack(newer).unwrap_err();
    assert!(error.contains("unknown version 7"), "{error}");
}
