//! What a configuration file may say, what it comes to, and how its errors point at the place.

use super::*;

fn parse(text: &str) -> Result<ConfigFile, ConfigError> {
    ConfigFile::parse(text, Path::new("twinlane.toml"))
}

fn surroundings() -> Surroundings {
    Surroundings { host_name: "host".into(), processors: 3, data_home: Some("/home/u/data".into()) }
}

fn resolve(text: &str, flags: &ServeArgs) -> Result<Settings, ConfigError> {
    Settings::resolve(&parse(text)?, flags, &surroundings())
}

fn error(text: &str) -> String {
    resolve(text, &ServeArgs::default()).unwrap_err().to_string()
}

#[test]
fn an_empty_file_means_the_defaults() {
    let settings = resolve("", &ServeArgs::default()).unwrap();
    assert_eq!(settings.listen, ["127.0.0.1:4747".parse().unwrap()]);
    assert!(settings.tcp && settings.quic && !settings.plain && settings.declare_on_use);
    assert_eq!((settings.name.as_str(), settings.io_threads), ("host", 1));
    assert_eq!(settings.identity, Identity::SelfSigned { dir: "/home/u/data".into() });
    assert_eq!(settings.log_dir(), None, "two servers of one user would share it");
    assert_eq!(settings.limits.connections_max, Limits::default().connections_max);
}

#[test]
fn the_example_file_parses_and_spells_out_the_defaults() {
    let example = include_str!("../../twinlane.example.toml");
    parse(example).unwrap();
    // With its comments opened, the example names every key there is.
    let opened: String = example
        .lines()
        .map(|line| line.strip_prefix("#! ").unwrap_or(line))
        .fold(String::new(), |text, line| text + line + "\n");
    let file = parse(&opened).unwrap();
    let written = toml::to_string(&file).unwrap();
    let full = full();
    for section in [toml::to_string(&full.server), toml::to_string(&full.limits), toml::to_string(&full.http)]
    {
        let section = section.unwrap();
        for key in section.lines().filter_map(|line| line.split(' ').next()) {
            assert!(written.contains(&format!("{key} = ")), "the example lacks `{key}`");
        }
    }
    assert_eq!(file.topics.len(), 3);
}

#[test]
fn an_engine_starts_with_the_example_file() {
    let settings = resolve(include_str!("../../twinlane.example.toml"), &ServeArgs::default()).unwrap();
    twinlane::Engine::new(settings.checking_config(Auth::Open)).unwrap();
}

#[test]
fn a_named_data_directory_is_the_home_of_the_certificate_and_of_durable_topics() {
    let from_file = resolve("[server]\ndata_dir = \"/d\"", &ServeArgs::default()).unwrap();
    let flags = ServeArgs { data_dir: Some("/d".into()), ..ServeArgs::default() };
    for settings in [from_file, resolve("", &flags).unwrap()] {
        assert_eq!(settings.identity, Identity::SelfSigned { dir: "/d".into() });
        assert_eq!(settings.engine_config(Auth::Open).data_dir, Some("/d/log".into()));
        assert_eq!(settings.checking_config(Auth::Open).data_dir, None, "a check touches no disk");
        assert_eq!(settings.to_file().server.data_dir, Some("/d".into()));
    }
    let bought = "[server]\ndata_dir = \"/d\"\ncertificate = \"c\"\nkey = \"k\"";
    assert_eq!(resolve(bought, &ServeArgs::default()).unwrap().log_dir(), Some("/d/log".into()));
}

#[tokio::test]
async fn a_durable_topic_larger_than_memory_passes_the_check() {
    let text = "[server]\ndata_dir = \"/nowhere\"\n[[topic]]\nname = \"a\"\nchannel = \"reliable\"\ndurable = true\n\
                retain_bytes = \"10 GiB\"\nlast = \"key\"";
    let settings = resolve(text, &ServeArgs::default()).unwrap();
    twinlane::Engine::new(settings.checking_config(Auth::Open)).unwrap();
}

fn full() -> ConfigFile {
    let text = "[server]\ntoken_file = \"t\"\ndata_dir = \"d\"\n[http]\norigins = [\"https://example.org\"]";
    let mut file = resolve(text, &ServeArgs::default()).unwrap().to_file();
    file.server.certificate = Some("c".into());
    file.server.key = Some("k".into());
    file
}

#[test]
fn there_are_at_most_27_knobs() {
    let knobs = |text: String| text.lines().filter(|line| line.contains(" = ")).count();
    let file = full();
    let server = knobs(toml::to_string(&file.server).unwrap());
    let limits = knobs(toml::to_string(&file.limits).unwrap());
    let http = knobs(toml::to_string(&file.http).unwrap());
    assert_eq!((server, limits, http), (12, 11, 4));
}

#[test]
fn what_is_written_out_reads_back_as_the_same_settings() {
    let text = r#"
        [server]
        listen = ["127.0.0.1:1", "[::1]:2"]
        io_policy = "spin"
        data_dir = "data"
        [limits]
        topic_retain_bytes = "1 MiB"
        durable_retain_bytes = "1 GiB"
        log_bytes_max = "100 GiB"
        last_keys_max = 9
        [http]
        listen = "localhost"
        console = true
        origins = ["https://example.org"]
        [[topic]]
        name = "prices"
        channel = "fast"
        mode = "latest"
        deadline = "50ms"
        payload_bytes_max = 512
        [[topic]]
        name = "orders"
        channel = "reliable"
        retain_messages = 7
        [[topic]]
        name = "ledger"
        channel = "reliable"
        durable = true
        retain_bytes = "10 GiB"
        retain_age = "7d"
        last = "key"
    "#;
    let settings = resolve(text, &ServeArgs::default()).unwrap();
    let written = toml::to_string(&settings.to_file()).unwrap();
    let again = resolve(&written, &ServeArgs::default()).unwrap();
    assert_eq!(format!("{settings:?}"), format!("{again:?}"));
    let prices = TopicSpec::fast().with_mode(Mode::Latest).with_payload_bytes_max(512);
    assert_eq!(settings.topics[0].1, prices.with_deadline(Duration::from_millis(50)));
    assert_eq!(settings.topics[1].1, TopicSpec::reliable().with_retain_messages(7));
    let ledger = TopicSpec::durable().with_retain_bytes(10 << 30).with_last(Last::Key);
    assert_eq!(settings.topics[2].1, ledger.with_retain_age(Duration::from_secs(7 * 86_400)));
    let limits = &settings.limits;
    let read = (limits.durable_retain_bytes, limits.log_bytes_max, limits.last_keys_max);
    assert_eq!(read, (1 << 30, 100 << 30, 9));
}

#[test]
fn flags_win_over_the_file() {
    let flags = ServeArgs {
        listen: vec!["127.0.0.1:9".parse().unwrap()],
        topics: vec![("a".into(), TopicSpec::reliable())],
        tcp_only: true,
        io_threads: Some(1),
        ..ServeArgs::default()
    };
    let file = "[server]\nlisten = \"127.0.0.1:8\"\nio_threads = 4\nname = \"n\"\n[[topic]]\nname = \"a\"\nchannel = \"fast\"";
    let settings = resolve(file, &flags).unwrap();
    assert_eq!(settings.listen[0].port(), 9);
    assert_eq!((settings.io_threads, settings.name.as_str()), (1, "n"));
    assert_eq!(settings.topics, [("a".to_owned(), TopicSpec::reliable())]);
    assert!(settings.tcp && !settings.quic);
}

#[test]
fn topics_are_declared_on_use_only_where_strangers_cannot_come() {
    assert!(!resolve("[server]\nlisten = \"0.0.0.0\"", &ServeArgs::default()).unwrap().declare_on_use);
    let told = "[server]\nlisten = \"0.0.0.0\"\ndeclare_on_use = true";
    assert!(resolve(told, &ServeArgs::default()).unwrap().declare_on_use);
}

#[test]
fn plain_tcp_switches_quic_off() {
    let settings = resolve("[server]\nplain = true", &ServeArgs::default()).unwrap();
    assert!(settings.plain && settings.tcp && !settings.quic);
}

#[test]
fn an_unknown_key_names_its_place_and_the_key_that_was_meant() {
    assert_eq!(
        error("[server]\n  lisen = \"x\""),
        "twinlane.toml:2:3: unknown key `lisen`: did you mean `listen`?"
    );
    assert_eq!(
        error("\n[[topics]]\nname = \"a\""),
        "twinlane.toml:2:3: unknown key `topics`: did you mean `topic`?"
    );
}

#[test]
fn a_wrong_value_names_its_place() {
    for (text, place, words) in [
        ("[server]\nlisten = \"example.org\"", "twinlane.toml:2:10: ", "is no address"),
        ("[server]\nlisten = [\"::1\", \"x\"]", "twinlane.toml:2:", "is no address"),
        ("[server]\nio_policy = \"fast\"", "twinlane.toml:2:13: ", "spin"),
        ("[server]\nio_threads = 0", "twinlane.toml:2:14: ", "at least 1"),
        ("[server]\ntcp = 1", "twinlane.toml:2:7: ", "boolean"),
        ("[limits]\ntopic_retain_bytes = \"8 apples\"", "twinlane.toml:2:22: ", "is no size"),
        ("[limits]\ntopic_retain_bytes = -1", "twinlane.toml:2:22: ", "below zero"),
        ("[limits]\npayload_bytes_max = \"8 GiB\"", "twinlane.toml:2:21: ", "above what a frame can carry"),
        ("[[topic]]\nname = \"a//b\"\nchannel = \"fast\"", "twinlane.toml:2:8: ", ""),
        ("[[topic]]\nname = \"a\"\nchannel = \"fats\"", "twinlane.toml:3:11: ", "did you mean `fast`?"),
        ("[[topic]]\nname = \"a\"", "twinlane.toml:1:1: ", "missing field `channel`"),
        (
            "[[topic]]\nname = \"a\"\nchannel = \"reliable\"\nretain_age = \"7\"",
            "twinlane.toml:4:14: ",
            "is no duration",
        ),
        (
            "[[topic]]\nname = \"a\"\nchannel = \"reliable\"\nlast = \"keys\"",
            "twinlane.toml:4:8: ",
            "did you mean `key`?",
        ),
        (
            "[[topic]]\nname = \"a\"\nchannel = \"fast\"\ndeadline = \"1h\"",
            "twinlane.toml:4:12: ",
            "30m is the longest",
        ),
        ("[server\n", "twinlane.toml:1:8: ", ""),
    ] {
        let shown = error(text);
        assert!(shown.starts_with(place) && shown.contains(words), "{text:?} gave: {shown}");
    }
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    for (text, words) in [
        ("[server]\ntcp = false\nquic = false", "neither TCP nor QUIC"),
        ("[server]\ntcp = false\nplain = true\nquic = true", "QUIC is always encrypted"),
        ("[server]\ncertificate = \"c.pem\"", "name both files"),
        ("[server]\nkey = \"k.pem\"", "name both files"),
        ("[[topic]]\nname = \"a\"\nchannel = \"reliable\"\nmode = \"latest\"", "always ordered"),
        ("[[topic]]\nname = \"a\"\nchannel = \"fast\"\ndurable = true", "kept in memory"),
        ("[[topic]]\nname = \"a\"\nchannel = \"reliable\"\ndeadline = \"1s\"", "set `retain_age` instead"),
        ("[[topic]]\nname = \"a\"\nchannel = \"fast\"\nlast = \"key\"", "no last values"),
        ("[[topic]]\nname = \"a\"\nchannel = \"reliable\"\ndurable = true", "--data-dir"),
    ] {
        let shown = error(text);
        assert!(shown.contains(words), "{text:?} gave: {shown}");
    }
}

#[test]
fn paths_in_a_file_are_relative_to_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("twinlane.toml");
    fs::write(&path, "[server]\ntoken_file = \"tokens\"\ndata_dir = \"/abs\"").unwrap();
    let file = ConfigFile::read(&path).unwrap();
    assert_eq!(file.server.token_file, Some(dir.path().join("tokens")));
    assert_eq!(file.server.data_dir, Some("/abs".into()));
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let shown = ConfigFile::read(Path::new("/nowhere/twinlane.toml")).unwrap_err().to_string();
    assert!(shown.starts_with("cannot read /nowhere/twinlane.toml: "), "{shown}");
}
