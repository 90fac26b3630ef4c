//! HTML tables as Markdown, where they are small and plain.

/// Tables that are larger are shown as text.
const MOST_COLUMNS: usize = 16;
const MOST_ROWS: usize = 64;
const MOST_BYTES: usize = 4_000;

/// A table as pandas and its like make them of data: one `<table>`, whose cells are text.
///
/// `None` for all other HTML, for cells that span others, and for tables that are large.
pub(super) fn as_table(html: &str) -> Option<String> {
    let begin = html.find("<table")?;
    let end = html.rfind("</table>")?;
    let (before, inside) = (&html[..begin], html.get(begin..end)?);
    let after = &html[end + "</table>".len()..];
    if !text_of(before).trim().is_empty() || inside[1..].contains("<table") {
        return None;
    }
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut rest = inside;
    while let Some(at) = rest.find('<') {
        let tag_end = at + rest[at..].find('>')?;
        let tag = &rest[at + 1..tag_end];
        let name = tag.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
        rest = &rest[tag_end + 1..];
        match name {
            "tr" => rows.push(Vec::new()),
            "td" | "th" => {
                if spans(tag) {
                    return None;
                }
                let close = rest.find(&format!("</{name}>"))?;
                let text = text_of(&rest[..close]);
                let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
                rows.last_mut()?.push(text.replace('\\', "\\\\").replace('|', "\\|"));
                rest = &rest[close..];
            }
            _ => {}
        }
    }
    rows.retain(|row| !row.is_empty());
    let columns = rows.first()?.len();
    let is_plain = rows.iter().all(|row| row.len() == columns);
    if !is_plain || columns > MOST_COLUMNS || rows.len() > MOST_ROWS || rows.len() < 2 {
        return None;
    }
    let mut table = String::new();
    for (at, row) in rows.iter().enumerate() {
        table.push_str("| ");
        table.push_str(&row.join(" | "));
        table.push_str(" |\n");
        if at == 0 {
            table.push_str(&"|---".repeat(columns));
            table.push_str("|\n");
        }
    }
    // Such as "1000 rows × 3 columns".
    let note = text_of(after);
    let note = note.trim();
    if !note.is_empty() {
        table.push('\n');
        table.push_str(note);
        table.push('\n');
    }
    (table.len() <= MOST_BYTES).then_some(table)
}

/// Whether a cell takes the place of several.
fn spans(tag: &str) -> bool {
    ["rowspan", "colspan"].iter().any(|word| {
        tag.split_once(word).is_some_and(|(_, value)| {
            let value = value.trim_start_matches(['=', '"', '\'', ' ']);
            let digits = value.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
            digits != "1"
        })
    })
}

/// The text between tags, its entities resolved; without what `<style>` and `<script>` hold.
fn text_of(html: &str) -> String {
    const ENTITIES: [(&str, &str); 6] = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#39;", "'"),
        ("&nbsp;", " "),
        ("&amp;", "&"), // the last, or what it makes would be taken for one
    ];
    let mut text = String::new();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        text.push_str(&rest[..at]);
        let tag = &rest[at..];
        let hidden = ["style", "script"].iter().find(|name| tag[1..].starts_with(**name));
        let end = match hidden {
            Some(name) => tag.find(&format!("</{name}>")).map(|end| end + name.len() + 3),
            None => tag.find('>').map(|end| end + 1),
        };
        rest = end.map_or("", |end| &tag[end..]);
    }
    text.push_str(rest);
    ENTITIES.iter().fold(text, |text, (entity, character)| text.replace(entity, character))
}

#[cfg(test)]
mod tests {
    use super::as_table;

    const PANDAS: &str = "<div>\n<style scoped>\n    .dataframe tbody tr th { x: y; }\n</style>\n\
        <table border=\"1\" class=\"dataframe\">\n  <thead>\n    <tr style=\"text-align: right;\">\n      \
        <th></th>\n      <th>a</th>\n      <th>b|c</th>\n    </tr>\n  </thead>\n  <tbody>\n    <tr>\n      \
        <th>0</th>\n      <td>1</td>\n      <td>x &amp; &lt;y&gt;</td>\n    </tr>\n  </tbody>\n</table>\n\
        <p>1 rows × 2 columns</p>\n</div>";

    #[test]
    fn a_small_table_is_one() {
        let table = as_table(PANDAS).unwrap();
        assert_eq!(
            table,
            "|  | a | b\\|c |\n|---|---|---|\n| 0 | 1 | x & <y> |\n\n1 rows × 2 columns\n"
        );
    }

    #[test]
    fn other_html_is_none() {
        let many: String = (0..100).map(|n| format!("<tr><td>{n}</td></tr>")).collect();
        for html in [
            "<b>x</b>",
            "<table>",
            "</table><table>",
            "<table></table>",
            "<table><tr><td>1",
            "<table><tr><td>only a head</td></tr></table>",
            "<table><tr><th colspan=\"2\">a</th></tr><tr><td>1</td><td>2</td></tr></table>",
            "<table><tr><td>1</td></tr><tr><td>1</td><td>2</td></tr></table>",
            "<table><tr><td><table><tr><td>1</td></tr></table></td></tr></table>",
            "<h1>Report</h1><table><tr><td>1</td></tr><tr><td>2</td></tr></table>",
            &format!("<table>{many}</table>"),
        ] {
            assert_eq!(as_table(html), None, "{html}");
        }
    }
}
