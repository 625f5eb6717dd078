//! The README's table of bases says what the code says.

use headstart::bases;
use headstart::model::BaseInfo;

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
const BEGIN: &str = "<!-- bases: begin -->\n";
const END: &str = "<!-- bases: end -->";

const HEADER: &str = "\
| base | parameters | multiplications | size | ImageNet top-1 | licence | weights |
|---|---|---|---|---|---|---|
";

fn line(base: &BaseInfo) -> String {
    let top1 = match base.top1 {
        None => "–".to_owned(),
        Some(top1) if top1.size == base.size => format!("{:.1} %", top1.percent),
        Some(top1) => format!("{:.1} % at {}", top1.percent, top1.size),
    };
    format!(
        "| `{}` | {:.1} M | {:.2} G | {} | {top1} | {} | [{hub}](https://huggingface.co/{hub}) |\n",
        base.name,
        base.parameters as f64 / 1e6,
        base.multiplications as f64 / 1e9,
        base.size,
        base.licence,
        hub = base.hub_id,
    )
}

#[test]
fn the_table_of_bases_in_the_readme_is_that_of_the_code() {
    let table = HEADER.to_owned() + &bases().iter().map(line).collect::<String>();
    let readme = std::fs::read_to_string(README).unwrap();
    let after = readme.split_once(BEGIN).map(|(_, after)| after);
    let found = after.and_then(|after| after.split_once(END));
    let (found, _) = found.expect("the README has both markers");
    assert!(
        found == table,
        "between the markers in README.md there should be\n\n{table}"
    );
}
