//! One cut: the folder as the power left it, the real server started on it, and the ledger of that moment compared.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mail::Randomness;
use serde_json::Value;

use crate::harness::{Postrider, Script, Setup, Sink, is_root, own_socket};
use crate::letters::{Arrival, Kind, Letter, Sent, busy, failed_in, refused};
use crate::powercut::disk::{Entry, Image, Moment};
use crate::powercut::fate::{Belief, Fate};
use crate::powercut::history::History;
use crate::powercut::recording::{Ledger, Syncs, Work, end, image_of, traced, write_image};

/// Where the cuts of one run come from.
#[derive(Debug)]
pub struct Plan {
    /// What happened.
    pub history: History,
    /// Who was told what.
    pub ledger: Ledger,
    /// Decides about everything, together with the number of the cut.
    pub seed: u64,
    /// What is believed of the recording.
    pub belief: Belief,
    /// Moments at which a client was told that its message is queued, in order.
    replies: Vec<Moment>,
    /// Every so many cuts the server must also deliver all that is left.
    drain_every: u64,
}

/// One cut.
#[derive(Debug)]
pub struct Cut {
    /// When the power goes.
    pub moment: Moment,
    /// What becomes of what was not synced.
    pub fate: Fate,
    /// Whether all that is left must be delivered.
    pub drain: bool,
    /// How often the power goes once more while the server starts after this cut.
    pub again: u32,
}

/// What was found after one cut.
#[derive(Debug, Default)]
pub struct Finding {
    /// Acknowledged recipients that were looked for.
    pub recipients: u64,
    /// Of them, still in the queue.
    pub queued: u64,
    /// Of them, taken by the sink before the cut.
    pub delivered: u64,
    /// Of them, told to the sender.
    pub told: u64,
    /// Of them, taken by the sink and still in the queue: they will arrive twice.
    pub twice: u64,
    /// Everything that must not be.
    pub wrong: Vec<String>,
    /// Milliseconds until the server was ready.
    pub start: u64,
    /// Why the index had to be built anew, if it had to be.
    pub rebuilt: Option<String>,
    /// Whether all that was left was delivered.
    pub drained: bool,
    /// How often the power went once more during the start.
    pub again: u64,
    /// Why the index had to be built anew after that.
    pub rebuilt_again: Vec<String>,
}

/// A place to try cuts in, one after the other.
pub struct Bench {
    /// Nothing leaves.
    quiet: Setup,
    /// All leaves.
    open: Setup,
    sink: Sink,
    /// Whose failures a report tells, by its queue id: what stands in it is read once.
    reports: RefCell<HashMap<String, HashSet<String>>>,
}

/// Every so many cuts the start after it is cut in turn, so often.
const AGAIN_EVERY: u64 = 5;
const AGAIN: u32 = 3;

/// How long the queue may take to become empty.
const DRAIN: Duration = Duration::from_secs(20);

impl Plan {
    /// Puts together what a run needs.
    pub fn new(history: History, ledger: Ledger, seed: u64, belief: Belief, drain_every: u64) -> Self {
        let mut replies: Vec<Moment> = history.acknowledged.values().copied().collect();
        replies.sort_unstable();
        Self { history, ledger, seed, belief, replies, drain_every }
    }

    /// The cut of this number: the same for the same seed and recording.
    pub fn cut(&self, number: u64) -> Cut {
        let randomness = Randomness::seeded(self.seed.rotate_left(32) ^ number);
        let any = |moments: &[Moment]| moments.get(randomness.below(moments.len())).copied().unwrap_or(0);
        let moment = match randomness.below(8) {
            // A reply was just sent.
            0 | 1 => any(&self.replies) + 1,
            2 | 3 => any(&self.history.disk.rare_edges),
            4 => randomness.below(self.history.end + 1),
            _ => any(&self.history.disk.edges),
        };
        let drain = self.belief == Belief::All && number.is_multiple_of(self.drain_every);
        let again = if self.belief == Belief::All && number % AGAIN_EVERY == 1 { AGAIN } else { 0 };
        Cut { moment, fate: Fate::new(randomness, self.belief), drain, again }
    }

    /// The folder after a cut.
    pub fn image(&self, cut: &Cut) -> Image {
        self.history.disk.after_cut(cut.moment, &cut.fate)
    }
}

impl Bench {
    /// A place of its own, in memory if the system has such a folder.
    pub fn new() -> Self {
        let sink = Sink::start();
        sink.answer(Script { recipient: vec![refused()], ..Script::default() });
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
        let base = busy(Setup::within(&parent));
        let nowhere = own_socket();
        let times = "[retry]\nfirst = \"1h\"\nmost = \"1h\"\n[delivery]\nrest_first = \"1h\"\nrest_most = \"1h\"";
        let quiet = base.clone().route("*", &format!("{}:1", nowhere.ip())).table(times);
        let soon = "[retry]\nfirst = \"1s\"\nmost = \"1s\"";
        let open = base.route("*", &sink.address().to_string()).table(soon);
        Self { quiet, open, sink, reports: RefCell::default() }
    }

    /// Tries a cut.
    pub fn attempt(&self, plan: &Plan, cut: &Cut) -> Finding {
        let image = plan.image(cut);
        let mut finding = self.look(plan, cut, &image);
        if cut.drain {
            self.drain(plan, cut, &mut finding);
        }
        if cut.again > 0 {
            self.cut_again(plan, cut, &image, &mut finding);
        }
        finding
    }

    /// Starts the server on a folder and compares what it has with the ledger.
    fn look(&self, plan: &Plan, cut: &Cut, image: &Image) -> Finding {
        self.lay_out(image);
        let server = Postrider::start(&self.quiet);
        let mut finding = Finding { start: started(&server), ..Finding::default() };
        let status = server.command(&["status", "--json"]).json().remove(0);
        if status["store"]["quarantined"] != 0 {
            finding.wrong.push(format!("quarantined: {}", status["store"]["quarantined"]));
        }
        let queue = Queue::of(&server, &mut self.reports.borrow_mut());
        let log = server.kill();
        let rebuilt = log.iter().find(|line| line["event"] == "building the index anew from the log");
        finding.rebuilt = rebuilt.map(|line| line["why"].as_str().unwrap_or_default().to_owned());
        let errors = log.iter().filter(|line| line["level"] == "error");
        finding.wrong.extend(errors.map(|line| format!("the log says {line}")));
        plan.compare(cut, &queue, &mut finding);
        finding
    }

    /// The power goes once more, while the server is busy with what the first cut left.
    fn cut_again(&self, plan: &Plan, cut: &Cut, image: &Image, finding: &mut Finding) {
        self.lay_out(image);
        let elsewhere = tempfile::tempdir().expect("a temporary folder");
        let trace = elsewhere.path().join("trace");
        let mut server = Postrider::run(traced(&self.quiet, &trace, Syncs::Plain), &self.quiet);
        server.event("ready");
        // A moment for what begins when it is ready: spare segments, checkpoints, reports.
        std::thread::sleep(Duration::from_millis(cut.fate.randomness().below(300) as u64));
        end(&mut server, false);
        let mut history = History::on(self.quiet.folder(), image);
        let text = std::fs::read(&trace).expect("strace writes");
        if let Err(why) = history.live(&text, &image_of(self.quiet.folder())) {
            return finding.wrong.push(format!("the second recording is no good: {why}"));
        }
        for _ in 0..cut.again {
            let edges = &history.disk.edges;
            let moment = edges.get(cut.fate.randomness().below(edges.len())).copied().unwrap_or(history.end);
            let fate = Fate::new(cut.fate.randomness().clone(), Belief::All);
            let found = self.look(plan, cut, &history.disk.after_cut(moment, &fate));
            finding.again += 1;
            finding.rebuilt_again.extend(found.rebuilt);
            let about = |wrong: String| format!("cut again at line {moment} ({}): {wrong}", fate.describe());
            finding.wrong.extend(found.wrong.into_iter().map(about));
        }
    }

    /// Puts the files where the server looks for them.
    fn lay_out(&self, image: &Image) {
        let folder = self.quiet.folder();
        let _ = std::fs::remove_dir_all(folder.join("queue"));
        write_image(folder, image).expect("the folder is written");
        if let Some(owner) = is_root().then(nobody) {
            for path in image.keys() {
                chown(folder.join(path), Some(owner.0), Some(owner.1)).expect("root may");
            }
        }
    }

    /// After one more crash, everything that is left must arrive.
    fn drain(&self, plan: &Plan, cut: &Cut, finding: &mut Finding) {
        while self.sink.next_within(Duration::ZERO).is_some() {}
        let server = Postrider::start(&self.open);
        server.command(&["queue", "retry", "--all"]).good();
        let (deadline, mut arrived) = (Instant::now() + DRAIN, Vec::new());
        loop {
            let status = server.command(&["status", "--json"]).json().remove(0);
            while let Some(mail) = self.sink.next_within(Duration::from_millis(5)) {
                arrived.push(Arrival::of(mail));
            }
            if status["store"]["messages"] == 0 {
                break;
            }
            if Instant::now() > deadline {
                finding.wrong.push(format!("{} messages do not leave", status["store"]["messages"]));
                break;
            }
        }
        drop(server);
        finding.drained = true;
        plan.compare_arrived(cut, &arrived, finding);
    }
}

/// What the server says is in its queue.
struct Queue {
    /// By message and recipient: whether its fate is open.
    recipients: HashMap<(String, String), bool>,
    /// Recipients whose failure a queued report tells, and the queue ids of such reports.
    told: HashMap<String, Vec<String>>,
}

impl Queue {
    /// What it lists, and what stands in the reports.
    fn of(server: &Postrider, reports: &mut HashMap<String, HashSet<String>>) -> Self {
        let mut queue = Self { recipients: HashMap::new(), told: HashMap::new() };
        let bare = |address: &Value| address.as_str().unwrap_or_default().trim_matches(['<', '>']).to_owned();
        for message in server.command(&["queue", "list", "--json", "--limit", "1000000"]).json() {
            let id = bare(&message["id"]);
            if message["sender"] == "<>" {
                let read = || failed_in(&server.command(&["queue", "show", &id, "--content"]).good());
                for recipient in &*reports.entry(id.clone()).or_insert_with(read) {
                    queue.told.entry(recipient.clone()).or_default().push(id.clone());
                }
                continue;
            }
            let deliveries = message["deliveries"].as_array().into_iter().flatten();
            for recipient in deliveries.flat_map(|delivery| delivery["recipients"].as_array().into_iter().flatten()) {
                let pending = recipient["status"] == "pending";
                if pending || recipient["report_owed"] == true {
                    queue.recipients.insert((id.clone(), bare(&recipient["address"])), pending);
                }
            }
        }
        queue
    }
}

impl Plan {
    /// Every recipient that was acknowledged before the cut must be somewhere; what the log said was final must be; and
    /// nobody is told of the same failure by two reports.
    fn compare(&self, cut: &Cut, queue: &Queue, finding: &mut Finding) {
        let before = self.before(cut);
        finding.wrong.extend(Self::told_anew(&before, queue));
        for (message, id) in self.acknowledged(cut) {
            for recipient in &message.recipients {
                let key = (id.clone(), recipient.clone());
                let queued = queue.recipients.contains_key(&key);
                // What the sinks take is not excused by a report.
                let refused = Kind::Refused.is(recipient);
                let delivered = !refused && before.delivered.contains(recipient.as_str());
                let reported = before.told.contains_key(recipient.as_str()) || queue.told.contains_key(recipient);
                let told = refused && reported;
                finding.recipients += 1;
                finding.queued += u64::from(queued);
                finding.delivered += u64::from(delivered);
                finding.told += u64::from(told);
                finding.twice += u64::from(queued && delivered);
                if !(queued || delivered || told) {
                    finding.wrong.push(format!("lost: {id} for {recipient} ({} octets)", message.size));
                }
                let claimed = self.history.claimed.get(&key).is_some_and(|moment| *moment < cut.moment);
                if claimed && queue.recipients.get(&key) == Some(&true) {
                    finding.wrong.push(format!("undone: {id} for {recipient} was final by the log, and is open again"));
                }
            }
        }
    }

    /// Failures that are told by more than one report: two in the queue, or another than the one that has arrived.
    fn told_anew(before: &Told, queue: &Queue) -> Vec<String> {
        let anew = queue.told.iter().filter(|(recipient, reports)| {
            let arrived = before.told.get(recipient.as_str());
            reports.len() > 1 || arrived.is_some_and(|name| !name.contains(&reports[0]))
        });
        anew.map(|(recipient, reports)| format!("told anew: {recipient} by {reports:?}")).collect()
    }

    /// The same when all has left: nothing is in the queue any more, and what arrived is as it was sent.
    fn compare_arrived(&self, cut: &Cut, arrived: &[Arrival], finding: &mut Finding) {
        let (mut before, now) = (self.before(cut), Told::by(arrived.iter()));
        let anew =
            now.told.iter().filter(|(recipient, report)| before.told.get(*recipient).is_some_and(|old| old != *report));
        finding.wrong.extend(anew.map(|(recipient, report)| format!("told anew: {recipient} by {report}")));
        before.delivered.extend(now.delivered);
        before.told.extend(now.told);
        for (message, id) in self.acknowledged(cut) {
            for recipient in &message.recipients {
                let there = match Kind::Refused.is(recipient) {
                    true => before.told.contains_key(recipient.as_str()),
                    false => before.delivered.contains(recipient.as_str()),
                };
                if !there {
                    finding.wrong.push(format!("never arrived: {id} for {recipient} ({} octets)", message.size));
                }
            }
        }
        let broken = arrived.iter().filter(|arrival| !arrival.whole);
        finding.wrong.extend(broken.map(|arrival| format!("not as it was sent: {arrival:?}")));
    }

    /// Messages that were acknowledged before the cut, with their queue ids.
    fn acknowledged(&self, cut: &Cut) -> impl Iterator<Item = (&Sent, &String)> {
        self.ledger.sent.iter().filter_map(move |message| {
            let id = message.id.as_ref()?;
            let moment = self.history.acknowledged.get(id)?;
            (*moment < cut.moment).then_some((message, id))
        })
    }

    /// What the sink had taken, as far as the server knew, when the power went.
    fn before(&self, cut: &Cut) -> Told<'_> {
        let known =
            |arrival: &&Arrival| self.history.taken.get(&arrival.number).is_some_and(|moment| *moment < cut.moment);
        Told::by(self.ledger.arrived.iter().filter(known))
    }
}

/// Who has got what.
struct Told<'a> {
    /// Recipients that have their message.
    delivered: HashSet<&'a str>,
    /// Recipients whose failure was told to the sender, and the report that did it.
    told: HashMap<&'a str, &'a str>,
}

impl<'a> Told<'a> {
    fn by(arrived: impl Iterator<Item = &'a Arrival>) -> Self {
        let mut told = Self { delivered: HashSet::new(), told: HashMap::new() };
        for arrival in arrived {
            match &arrival.letter {
                Letter::Report { name, failed } => {
                    told.told.extend(failed.iter().map(|recipient| (recipient.as_str(), name.as_str())));
                }
                Letter::Own { .. } | Letter::Other => told.delivered.extend(arrival.to.iter().map(String::as_str)),
            }
        }
        told
    }
}

/// Keeps the folder of a cut for people to look at.
pub fn keep(image: &Image, folder: &Path) -> PathBuf {
    let _ = std::fs::remove_dir_all(folder);
    write_image(folder, image).expect("the folder is written");
    folder.to_path_buf()
}

fn started(server: &Postrider) -> u64 {
    server.event("ready")["start_ms"].as_u64().unwrap_or(0)
}

/// The user and the group that the server becomes when the test runs as root.
fn nobody() -> (u32, u32) {
    let user = nix::unistd::User::from_name("nobody").ok().flatten().expect("a user nobody");
    (user.uid.as_raw(), user.gid.as_raw())
}

/// Octets in all files of a folder.
pub fn size(image: &Image) -> usize {
    image.values().map(|entry| if let Entry::File(octets) = entry { octets.len() } else { 0 }).sum()
}

#[test]
fn a_report_about_one_recipient_does_not_excuse_the_loss_of_another() {
    let recipients = [(Kind::Refused, "c1n1r0"), (Kind::Refused, "c1n1r1"), (Kind::Taken, "c1n1r2")];
    let recipients = recipients.map(|(kind, name)| kind.address(name)).to_vec();
    let told = HashMap::from([(recipients[0].clone(), vec!["report".to_owned()])]);
    let message = Sent { token: "c1n1".to_owned(), id: Some("id".to_owned()), recipients, size: 200 };
    let mut history = History::new(Path::new("/"), false);
    history.acknowledged.insert("id".to_owned(), 1);
    let ledger = Ledger { sent: vec![message], arrived: Vec::new(), work: Work::default() };
    let plan = Plan::new(history, ledger, 1, Belief::All, 4);
    let fate = Fate::new(Randomness::seeded(1), Belief::All);
    let mut finding = Finding::default();
    let queue = Queue { recipients: HashMap::new(), told };
    plan.compare(&Cut { moment: 2, fate, drain: false, again: 0 }, &queue, &mut finding);
    assert_eq!((finding.recipients, finding.told), (3, 1));
    let lost = ["refused.c1n1r1@refused.example", "taken.c1n1r2@taken.example"];
    assert_eq!(finding.wrong, lost.map(|lost| format!("lost: id for {lost} (200 octets)")));
}

#[test]
fn a_second_report_about_the_same_failure_is_an_error() {
    let queue = |reports: &[&str]| {
        let reports = reports.iter().map(ToString::to_string).collect();
        Queue { recipients: HashMap::new(), told: HashMap::from([("r@refused.example".to_owned(), reports)]) }
    };
    let told = |name| Told { delivered: HashSet::new(), told: HashMap::from([("r@refused.example", name)]) };
    let nothing = Told { delivered: HashSet::new(), told: HashMap::new() };
    assert_eq!(Plan::told_anew(&nothing, &queue(&["one"])), Vec::<String>::new());
    assert_eq!(Plan::told_anew(&told("<one@mx.test>"), &queue(&["one"])), Vec::<String>::new());
    assert_eq!(Plan::told_anew(&told("<one@mx.test>"), &queue(&["other"])).len(), 1);
    assert_eq!(Plan::told_anew(&nothing, &queue(&["one", "other"])).len(), 1);
}
