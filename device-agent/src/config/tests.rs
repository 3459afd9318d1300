use std::fs;

use super::*;

fn load(text: &str) -> Result<Options, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("device.toml");
    fs::write(&path, text).unwrap();
    let mut layers = Layers::default();
    layers.file(&path).map_err(|error| error.to_string())?;
    Ok(layers.config())
}

#[test]
fn shipped_files_load() {
    let configs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let mut reference = Layers::default();
    reference.file(&configs.join("device.toml")).unwrap();
    assert_eq!(
        reference.config(),
        Options::default(),
        "the reference shows the defaults"
    );
    let mut dev = Layers::default();
    dev.file(&configs.join("dev/device.toml")).unwrap();
    dev.config().check().unwrap();
}

#[test]
fn every_key_is_in_the_reference() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/device.toml");
    let text = fs::read_to_string(path).unwrap();
    for line in Layers::default().show().lines() {
        let key = line.split(" = ").next().unwrap().rsplit('.').next().unwrap();
        assert!(text.contains(&format!("{key} = ")), "{key} is not explained");
    }
}

#[test]
fn errors_name_file_line_and_key() {
    for (text, expected) in [
        ("# x\n\nmqqt = 1\n", ":3: mqqt: unknown field `mqqt`"),
        ("[backoff]\nmax = 5\n", ":2: backoff.max: "),
        ("registrar = \"127.0.0.1\"\n", ":1: registrar: endpoint"),
        ("id = \"a b\"\n", ":1: id: device id has the character ' '"),
        ("[backoff\n", ":1: "),
    ] {
        let error = load(text).unwrap_err();
        assert!(
            error.contains("device.toml") && error.contains(expected),
            "{error}"
        );
    }
}

#[test]
fn later_layers_win_and_say_where_they_came_from() {
    let mut layers = Layers::default();
    let variables = [
        ("DEVICE_AGENT__BACKOFF__MAX", "9s"),
        ("DEVICE_AGENT__QUEUE__OUTBOX", "7"),
        ("OTHER", "x"),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    layers.environment(variables.into_iter()).unwrap();
    layers.text("backoff.max", "8s", "--flag").unwrap();
    let options = layers.config();
    assert_eq!(
        (options.backoff.max, options.queue.outbox),
        (Duration::from_secs(8), 7)
    );
    assert!(layers.show().contains("backoff.max = \"8s\"  # --flag"));
    let wrong = layers.text("backoff.mux", "8s", "--flag").unwrap_err();
    assert!(wrong.to_string().starts_with("--flag: unknown field"), "{wrong}");
}

#[test]
fn check_names_what_cannot_work() {
    assert_eq!(Options::default().check(), Ok(()));
    let wrong = |change: fn(&mut Options)| {
        let mut options = Options::default();
        change(&mut options);
        options.check().unwrap_err().key
    };
    assert_eq!(
        wrong(|o| o.backoff.base = Duration::from_millis(999)),
        "backoff.base"
    );
    assert_eq!(
        wrong(|o| o.backoff.max = Duration::from_millis(999)),
        "backoff.max"
    );
    assert_eq!(
        wrong(|o| o.connection.keep_alive = Duration::from_secs(4)),
        "connection.keep_alive"
    );
    assert_eq!(wrong(|o| o.queue.outbox = 0), "queue.outbox");
    assert_eq!(
        wrong(|o| o.connection.tries_before_asking = 0),
        "connection.tries_before_asking"
    );
}
