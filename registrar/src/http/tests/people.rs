use std::net::SocketAddr;

use axum::{extract::ConnectInfo, http::HeaderMap};
use base64::{Engine, prelude::BASE64_STANDARD};
use daemon::http::Peer;

use super::*;
use crate::people::record::Role;

const PASSWORD: &str = "correct horse";

/// Every route, and the role it takes.
const ROUTES: [(&str, &str, Role); 28] = [
    ("GET", "/v1/devices", Role::Viewer),
    ("GET", "/v1/devices/d1", Role::Viewer),
    ("PUT", "/v1/devices/d1", Role::Operator),
    ("DELETE", "/v1/devices/d1", Role::Operator),
    ("GET", "/v1/gateways", Role::Viewer),
    ("GET", "/v1/gateways/gw-a", Role::Viewer),
    ("GET", "/v1/migrations", Role::Viewer),
    ("POST", "/v1/migrations", Role::Operator),
    (
        "GET",
        "/v1/migrations/01936d3c-5f2e-7c4a-9d1b-0a1b2c3d4e5f",
        Role::Viewer,
    ),
    ("GET", "/v1/audit", Role::Viewer),
    ("POST", "/v1/import?format=csv", Role::Operator),
    ("GET", "/v1/groups", Role::Viewer),
    ("POST", "/v1/groups", Role::Admin),
    ("PUT", "/v1/groups/default", Role::Admin),
    ("GET", "/v1/groups/default/key", Role::Admin),
    ("PUT", "/v1/devices/d1/key", Role::Admin),
    ("GET", "/v1/keys", Role::Admin),
    ("POST", "/v1/gateways/gw-a/key", Role::Admin),
    ("GET", "/v1/backup", Role::Admin),
    ("GET", "/v1/users", Role::Admin),
    ("POST", "/v1/users", Role::Admin),
    ("GET", "/v1/users/vic", Role::Admin),
    ("PATCH", "/v1/users/vic", Role::Admin),
    ("DELETE", "/v1/users/nobody", Role::Admin),
    ("PUT", "/v1/users/nobody/password", Role::Admin),
    ("GET", "/v1/tokens?all=true", Role::Admin),
    ("GET", "/v1/tokens?user=ann", Role::Admin),
    ("GET", "/v1/tokens", Role::Viewer),
];

struct Answered {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

async fn ask(
    registrar: &Registrar,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Value,
) -> Answered {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = if body.is_null() {
        Body::empty()
    } else {
        Body::from(body.to_string())
    };
    let mut request = request.body(body).unwrap();
    let peer: SocketAddr = ([192, 0, 2, 1], 5).into();
    request.extensions_mut().insert(ConnectInfo(Peer(peer)));
    let response = router(Arc::clone(&registrar.app)).oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    Answered {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    }
}

async fn with(registrar: &Registrar, method: &str, path: &str, credentials: &str, body: Value) -> Answered {
    ask(registrar, method, path, &[("authorization", credentials)], body).await
}

fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:{password}")))
}

/// Ann is an admin, olli an operator and vic a viewer.
async fn staffed() -> Registrar {
    let registrar = Registrar::guarded().await;
    for (name, role) in [
        ("ann", Role::Admin),
        ("olli", Role::Operator),
        ("vic", Role::Viewer),
    ] {
        let added = registrar
            .people
            .add(name.parse().unwrap(), PASSWORD, role, false, "test".into());
        added.await.unwrap();
    }
    registrar
}

async fn login(registrar: &Registrar, name: &str, password: &str) -> String {
    let answer = ask(
        registrar,
        "POST",
        "/v1/login",
        &[],
        json!({"user": name, "password": password}),
    )
    .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    format!("Bearer {}", answer.body["token"].as_str().unwrap())
}

#[tokio::test]
async fn nothing_but_health_and_metrics_is_for_strangers() {
    let registrar = staffed().await;
    for (method, path, _) in ROUTES {
        for credentials in [
            "",
            "Bearer",
            "Bearer hpt_",
            "Bearer hpt_0123456789abcdef_00",
            "Basic !",
            "Basic YQ==",
            "Digest x",
            &basic("nobody", "x"),
        ] {
            let headers = [("authorization", credentials), ("x-homeport-actor", "ann")];
            let headers = if credentials.is_empty() {
                &headers[1..]
            } else {
                &headers
            };
            let answer = ask(&registrar, method, path, headers, Value::Null).await;
            // Guessing is slowed down after a while.
            assert!(
                matches!(answer.status, 401 | 429),
                "{method} {path} {credentials}: {}",
                answer.status
            );
            if answer.status == 401 {
                let challenge = answer.headers["www-authenticate"].to_str().unwrap();
                assert!(challenge.contains("Bearer") && challenge.contains("Basic"));
            }
        }
    }
    for (path, status) in [
        ("/healthz", 200),
        ("/readyz", 200),
        ("/metrics", 200),
        ("/v1/nothing", 401),
    ] {
        assert_eq!(
            ask(&registrar, "GET", path, &[], Value::Null).await.status,
            status,
            "{path}"
        );
    }
}

#[tokio::test]
async fn each_route_takes_its_role_and_names_it() {
    let registrar = staffed().await;
    for (name, has) in [
        ("vic", Role::Viewer),
        ("olli", Role::Operator),
        ("ann", Role::Admin),
    ] {
        let token = login(&registrar, name, PASSWORD).await;
        for (method, path, needed) in ROUTES {
            let answer = with(
                &registrar,
                method,
                path,
                &token,
                json!({"password": "x234567890"}),
            )
            .await;
            let refused = answer.status == 403;
            assert_eq!(
                refused,
                has < needed,
                "{name} {method} {path}: {} {}",
                answer.status,
                answer.body
            );
            if refused {
                assert_eq!(answer.body["code"], "forbidden");
                assert!(
                    answer.body["message"]
                        .as_str()
                        .unwrap()
                        .contains(&needed.to_string()),
                    "{}",
                    answer.body
                );
            }
        }
    }
}

#[tokio::test]
async fn the_audit_log_names_who_logged_in_whatever_the_header_says() {
    let registrar = staffed().await;
    registrar.gateway("gw-a").await;
    let token = login(&registrar, "olli", PASSWORD).await;
    let id = token.split('_').nth(1).unwrap().to_owned();
    let assign = json!({"gateway": "gw-a"});
    for (device, credentials) in [("d1", token), ("d2", basic("olli", PASSWORD))] {
        let headers = [
            ("authorization", credentials.as_str()),
            ("x-homeport-actor", "ann"),
        ];
        let path = format!("/v1/devices/{device}");
        assert_eq!(
            ask(&registrar, "PUT", &path, &headers, assign.clone())
                .await
                .status,
            200
        );
    }
    let audit = with(
        &registrar,
        "GET",
        "/v1/audit",
        &basic("vic", PASSWORD),
        Value::Null,
    )
    .await
    .body;
    let entries = audit["entries"].as_array().unwrap().iter();
    let actors: Vec<_> = entries
        .filter(|entry| entry["action"] == "assign")
        .map(|entry| &entry["actor"])
        .collect();
    assert_eq!(actors, [&json!(format!("olli (token {id})")), &json!("olli")]);
    assert!(!audit.to_string().contains("hpt_") && !audit.to_string().contains("argon2"));
}

#[tokio::test]
async fn whoever_must_change_the_password_does_nothing_else() {
    let registrar = staffed().await;
    let admin = login(&registrar, "ann", PASSWORD).await;
    let new = json!({"user": "new", "role": "admin", "password": "given by ann"});
    let added = with(&registrar, "POST", "/v1/users", &admin, new).await;
    assert_eq!((added.status, &added.body["must_change"]), (201, &json!(true)));
    let token = login(&registrar, "new", "given by ann").await;
    for (method, path, _) in ROUTES {
        let answer = with(
            &registrar,
            method,
            path,
            &token,
            json!({"password": "x234567890"}),
        )
        .await;
        assert_eq!(answer.status, 403, "{method} {path}");
        assert_eq!(answer.body["code"], "password_change_required", "{method} {path}");
    }
    let path = "/v1/users/new/password";
    let change = async |body: Value| with(&registrar, "PUT", path, &token, body).await;
    assert_eq!(change(json!({"password": "my own password"})).await.status, 400);
    assert_eq!(
        change(json!({"password": "given by ann", "current": "given by ann"}))
            .await
            .status,
        400
    );
    assert_eq!(
        change(json!({"password": "short", "current": "given by ann"}))
            .await
            .status,
        400
    );
    assert_eq!(
        change(json!({"password": "my own password", "current": "wrong"}))
            .await
            .status,
        401
    );
    let other = login(&registrar, "new", "given by ann").await;
    let changed = change(json!({"password": "my own password", "current": "given by ann"})).await;
    assert_eq!(changed.status, 204, "{}", changed.body);
    assert_eq!(
        with(&registrar, "GET", "/v1/users", &token, Value::Null)
            .await
            .status,
        200
    );
    // What else had logged in with the old one is out.
    assert_eq!(
        with(&registrar, "GET", "/v1/users", &other, Value::Null)
            .await
            .status,
        401
    );
}

#[tokio::test]
async fn tokens_have_an_end_a_scope_and_an_owner() {
    let registrar = staffed().await;
    let olli = login(&registrar, "olli", PASSWORD).await;
    let create = async |credentials: &str, body: Value| {
        with(&registrar, "POST", "/v1/tokens", credentials, body).await
    };
    let made = create(&olli, json!({"life_s": 60, "note": "grafana"})).await;
    assert_eq!(
        (made.status, &made.body["role"], &made.body["note"]),
        (201, &json!("viewer"), &json!("grafana"))
    );
    let reader = format!("Bearer {}", made.body["token"].as_str().unwrap());
    assert_eq!(
        with(&registrar, "GET", "/v1/devices", &reader, Value::Null)
            .await
            .status,
        200
    );
    assert_eq!(
        with(&registrar, "DELETE", "/v1/devices/d1", &reader, Value::Null)
            .await
            .status,
        403
    );
    // By name and token, as programs that know Basic only do.
    let text = made.body["token"].as_str().unwrap();
    assert_eq!(
        with(&registrar, "GET", "/v1/devices", &basic("any", text), Value::Null)
            .await
            .status,
        200
    );
    let login = ask(
        &registrar,
        "POST",
        "/v1/login",
        &[],
        json!({"user": "olli", "password": text}),
    )
    .await;
    assert_eq!(login.status, 400);
    for (body, status) in [
        (json!({"life_s": 60, "role": "admin"}), 403),
        (json!({"life_s": 60, "user": "ann"}), 403),
        (json!({"life_s": 0}), 400),
        (json!({"life_s": 400 * 24 * 3600}), 400),
        (json!({"life_s": 60, "note": "a\nb"}), 400),
    ] {
        let answer = create(&olli, body.clone()).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.body);
    }
    // One that leaks gives nobody another one, and ends none but itself.
    assert_eq!(create(&reader, json!({"life_s": 60})).await.status, 403);
    let other = create(&olli, json!({"life_s": 60})).await.body;
    let revoke = async |credentials: &str, id: &Value| {
        let path = format!("/v1/tokens/{}", id.as_str().unwrap());
        with(&registrar, "DELETE", &path, credentials, Value::Null)
            .await
            .status
    };
    assert_eq!(revoke(&reader, &other["id"]).await, 403);
    assert_eq!(
        revoke(&self::login(&registrar, "vic", PASSWORD).await, &other["id"]).await,
        403
    );
    assert_eq!(revoke(&olli, &other["id"]).await, 204);
    assert_eq!(revoke(&reader, &made.body["id"]).await, 204);
    assert_eq!(
        with(&registrar, "GET", "/v1/devices", &reader, Value::Null)
            .await
            .status,
        401
    );
    let admin = self::login(&registrar, "ann", PASSWORD).await;
    let all = with(&registrar, "GET", "/v1/tokens?all=true", &admin, Value::Null)
        .await
        .body;
    assert_eq!(all["tokens"].as_array().unwrap().len(), 3, "{all}");
    assert!(!all.to_string().contains("digest"), "{all}");
    let own = with(&registrar, "GET", "/v1/tokens", &olli, Value::Null)
        .await
        .body;
    assert_eq!(own["tokens"].as_array().unwrap().len(), 1, "{own}");
}

#[tokio::test]
async fn a_disabled_or_demoted_person_is_so_at_once_and_an_admin_is_left() {
    let registrar = staffed().await;
    let (admin, olli) = (
        login(&registrar, "ann", PASSWORD).await,
        login(&registrar, "olli", PASSWORD).await,
    );
    let alter = async |name: &str, body: Value| {
        with(&registrar, "PATCH", &format!("/v1/users/{name}"), &admin, body)
            .await
            .status
    };
    assert_eq!(alter("olli", json!({"role": "viewer"})).await, 200);
    assert_eq!(
        with(&registrar, "DELETE", "/v1/devices/d1", &olli, Value::Null)
            .await
            .status,
        403
    );
    assert_eq!(alter("olli", json!({"disabled": true})).await, 200);
    assert_eq!(
        with(&registrar, "GET", "/v1/devices", &olli, Value::Null)
            .await
            .status,
        401
    );
    for body in [json!({"disabled": true}), json!({"role": "viewer"})] {
        assert_eq!(alter("ann", body).await, 409);
    }
    assert_eq!(
        with(&registrar, "DELETE", "/v1/users/ann", &admin, Value::Null)
            .await
            .status,
        409
    );
    assert_eq!(alter("nobody", json!({"disabled": true})).await, 404);
    assert_eq!(
        with(&registrar, "DELETE", "/v1/users/olli", &admin, Value::Null)
            .await
            .status,
        204
    );
    let me = with(&registrar, "GET", "/v1/me", &admin, Value::Null).await.body;
    assert_eq!((&me["user"], &me["role"]), (&json!("ann"), &json!("admin")));
}

#[tokio::test]
async fn guessing_gets_slower_and_is_counted() {
    let registrar = staffed().await;
    let mut held = None;
    for _ in 0..20 {
        let answer = with(
            &registrar,
            "GET",
            "/v1/devices",
            &basic("ann", "guess"),
            Value::Null,
        )
        .await;
        held = held.or_else(|| (answer.status == 429).then_some(answer));
    }
    let held = held.expect("it is held before the twentieth guess");
    assert_eq!(held.body["code"], "too_many_requests");
    assert!(
        held.headers["retry-after"]
            .to_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
            >= 1
    );
    let (_, metrics) = call(&registrar, "GET", "/metrics", "").await;
    let metrics = String::from_utf8(metrics).unwrap();
    for line in [
        "registrar_logins_total{outcome=\"denied\"} 6",
        "registrar_users 3",
        "registrar_tokens 0",
    ] {
        assert!(metrics.contains(line), "{line} is missing from\n{metrics}");
    }
}

#[tokio::test]
async fn a_page_of_another_site_changes_nothing_even_where_nobody_logs_in() {
    for registrar in [staffed().await, Registrar::start(Config::default()).await] {
        let credentials = basic("olli", PASSWORD);
        let ask = async |method: &str, foreign: (&'static str, &'static str)| {
            let headers = [("host", "here"), ("authorization", credentials.as_str()), foreign];
            ask(&registrar, method, "/v1/devices/d1", &headers, Value::Null)
                .await
                .status
        };
        for foreign in [
            ("origin", "http://evil.example"),
            ("sec-fetch-site", "cross-site"),
        ] {
            assert_eq!(ask("DELETE", foreign).await, 403);
            assert_eq!(ask("GET", foreign).await, 404);
        }
        assert_eq!(ask("DELETE", ("origin", "http://here")).await, 404);
    }
}

#[tokio::test]
async fn where_nobody_has_to_log_in_people_can_be_made_ready() {
    let registrar = Registrar::start(Config::default()).await;
    let new = json!({"user": "ann", "role": "admin", "password": PASSWORD, "must_change": false});
    assert_eq!(ask(&registrar, "POST", "/v1/users", &[], new).await.status, 201);
    let token = json!({"user": "ann", "role": "admin", "life_s": 60});
    assert_eq!(
        ask(&registrar, "POST", "/v1/tokens", &[], token).await.status,
        201
    );
    assert_eq!(
        ask(&registrar, "POST", "/v1/tokens", &[], json!({"life_s": 60}))
            .await
            .status,
        400
    );
}

#[tokio::test]
async fn only_an_admin_gives_devices_keys_by_import() {
    let registrar = staffed().await;
    registrar.gateway("gw-a").await;
    let import = async |name: &str, key: Option<&str>| {
        let row = json!({"device": "d1", "gateway": "gw-a", "key": key});
        let path = "/v1/import?format=ndjson";
        with(&registrar, "POST", path, &basic(name, PASSWORD), row)
            .await
            .status
    };
    let key = Some("AAECAwQFBgcICQoLDA0ODw==");
    let keyed = async || registrar.service.device_keys(None).await.unwrap().0.len();
    import("olli", key).await;
    assert_eq!(keyed().await, 0);
    assert!(
        registrar.service.device(&"d1".parse().unwrap()).await.is_err(),
        "all or nothing"
    );
    import("olli", None).await;
    assert!(registrar.service.device(&"d1".parse().unwrap()).await.is_ok());
    import("ann", key).await;
    assert_eq!(keyed().await, 1);
}
