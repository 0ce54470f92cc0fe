//! Domain names with labels that are not ASCII: which of them can exist (RFC 5890 section 2.3.2.1, RFC 5892).

#[cfg(feature = "idna")]
pub(super) use self::by_tables::{check, to_ascii};

#[cfg(not(feature = "idna"))]
pub(super) use self::without_tables::check;

#[cfg(feature = "idna")]
mod by_tables {
    use std::{borrow::Cow, ops::RangeInclusive};

    use icu_normalizer::ComposingNormalizerBorrowed;
    use icu_properties::{
        CodePointMapData, CodePointSetData,
        props::{Emoji, GeneralCategory},
    };
    use idna::{
        AsciiDenyList,
        uts46::{DnsLength, Hyphens, Uts46},
    };

    use super::super::{AddressError, AddressErrorKind, AddressPart};

    /// Returns the name in A-labels and lower case, if UTS #46 allows it.
    pub(in super::super) fn to_ascii(name: &str) -> Option<Cow<'_, str>> {
        // The scanner has ensured that the only ASCII characters are letters, digits, hyphens and possibly underscores.
        let deny = AsciiDenyList::EMPTY;
        let (hyphens, length) = (Hyphens::CheckFirstLast, DnsLength::Ignore);
        let ascii = Uts46::new().to_ascii(name.as_bytes(), deny, hyphens, length);
        ascii.ok()
    }

    /// Checks a name that is not ASCII, and whose labels are no longer than 255 bytes.
    pub(in super::super) fn check(name: &str) -> Result<(), AddressError> {
        let ascii = to_ascii(name).ok_or(AddressErrorKind::DisallowedLabel)?;
        let mut labels = name.split('.').filter(|label| !label.is_ascii());
        if !labels.all(is_u_label) {
            return Err(AddressErrorKind::DisallowedLabel.into());
        }
        // RFC 5890 section 4.2: the DNS limits the A-labels.
        for label in ascii.split('.') {
            AddressPart::Label.check(label.len())?;
        }
        AddressPart::Domain.check(ascii.len())
    }

    /// Returns whether a label is a U-label except for case and normalization, or would be one if emoji were letters.
    fn is_u_label(label: &str) -> bool {
        let uts46 = Uts46::new();
        let (deny, hyphens) = (AsciiDenyList::EMPTY, Hyphens::Check); // RFC 5891 section 4.2.3.1
        let (u_label, outcome) = uts46.to_unicode(label.as_bytes(), deny, hyphens);
        outcome.is_ok()
            && folded(label) == folded(&u_label)
            && u_label.chars().all(is_allowed)
            && !label.chars().any(is_another_in_disguise)
    }

    /// UTS #46 also maps compatibility forms, and drops invisible characters. RFC 5892 section 2.2 disallows all of these:
    /// otherwise, two names that differ here would be the same domain.
    fn folded(label: &str) -> String {
        let lower: String = label.chars().flat_map(char::to_lowercase).collect();
        let nfc = ComposingNormalizerBorrowed::new_nfc();
        nfc.normalize(&lower).into_owned()
    }

    /// Returns whether normalization turns it into another character, such as the Kelvin sign into `K` and the Angstrom sign into
    /// `Å`. RFC 5892 section 2.2 disallows these. Letters with separate combining marks are not affected: normalization only
    /// joins them.
    fn is_another_in_disguise(c: char) -> bool {
        let nfc = ComposingNormalizerBorrowed::new_nfc();
        let mut normalized = nfc.normalize_iter(std::iter::once(c));
        normalized.next() != Some(c) && normalized.next().is_none()
    }

    /// RFC 5892 section 3, as far as UTS #46 does not cover it, and emoji: they are in use, and each has only one form.
    fn is_allowed(c: char) -> bool {
        if c.is_ascii() {
            return c.is_ascii_alphanumeric() || c == '-' || c == '_';
        }
        let is_disallowed = DISALLOWED.iter().any(|range| range.contains(&c));
        !is_disallowed && (is_letter_or_digit(c) || EXCEPTIONS.contains(&c) || is_emoji(c))
    }

    /// RFC 5892 section 2.1.
    fn is_letter_or_digit(c: char) -> bool {
        use GeneralCategory::{
            DecimalNumber, LowercaseLetter, ModifierLetter, NonspacingMark, OtherLetter,
            SpacingMark, UppercaseLetter,
        };
        let category = CodePointMapData::<GeneralCategory>::new().get(c);
        matches!(
            category,
            LowercaseLetter
                | UppercaseLetter
                | OtherLetter
                | ModifierLetter
                | NonspacingMark
                | SpacingMark
                | DecimalNumber
        )
    }

    fn is_emoji(c: char) -> bool {
        CodePointSetData::new::<Emoji>().contains(c)
    }

    /// RFC 5892 section 2.6, the exceptions that are not letters or digits, and the joiners, whose context UTS #46 checks
    /// (section 2.8).
    const EXCEPTIONS: [char; 11] = [
        '\u{b7}', '\u{375}', '\u{5f3}', '\u{5f4}', '\u{6fd}', '\u{6fe}', '\u{f0b}', '\u{200c}',
        '\u{200d}', '\u{3007}', '\u{30fb}',
    ];

    /// Letters and marks that are disallowed individually (RFC 5892 section 2.6), by their block (section 2.4), or because they
    /// are old Hangul Jamo (section 2.9).
    const DISALLOWED: [RangeInclusive<char>; 10] = [
        '\u{640}'..='\u{640}',
        '\u{7fa}'..='\u{7fa}',
        '\u{1100}'..='\u{11ff}',
        '\u{20d0}'..='\u{20ff}',
        '\u{302e}'..='\u{302f}',
        '\u{3031}'..='\u{3035}',
        '\u{303b}'..='\u{303b}',
        '\u{a960}'..='\u{a97f}',
        '\u{d7b0}'..='\u{d7ff}',
        '\u{1d100}'..='\u{1d24f}',
    ];
}

/// The checks that need no Unicode tables.
#[cfg(any(test, not(feature = "idna")))]
mod without_tables {
    use std::ops::RangeInclusive;

    use super::super::{AddressError, AddressErrorKind, AddressPart};

    /// Checks a name that is not ASCII, and whose labels have at most 63 characters.
    #[cfg_attr(feature = "idna", allow(dead_code, reason = "its parts are tested"))]
    pub(in super::super) fn check(name: &str) -> Result<(), AddressError> {
        if name.contains(is_disallowed) {
            return Err(AddressErrorKind::DisallowedLabel.into());
        }
        let mut bytes = 0;
        for label in name.split('.') {
            // RFC 5890 section 4.2: the DNS limits the A-labels.
            let len = a_label_len(label);
            AddressPart::Label.check(len)?;
            bytes += len + 1;
        }
        AddressPart::Domain.check(bytes - 1)
    }

    /// Invisible characters, spaces and punctuation, and forms of ASCII, which make two names look alike.
    pub(super) fn is_disallowed(c: char) -> bool {
        DISALLOWED.iter().any(|range| range.contains(&c))
    }

    const DISALLOWED: [RangeInclusive<char>; 23] = [
        '\u{ad}'..='\u{ad}',
        '\u{34f}'..='\u{34f}',
        '\u{37e}'..='\u{37e}',
        '\u{61c}'..='\u{61c}',
        '\u{115f}'..='\u{1160}',
        '\u{17b4}'..='\u{17b5}',
        '\u{180b}'..='\u{180f}',
        '\u{1fef}'..='\u{1fef}',
        // General punctuation except for the two joiners.
        '\u{2000}'..='\u{200b}',
        '\u{200e}'..='\u{206f}',
        // Other code points for a letter: Ohm, Kelvin, Angstrom.
        '\u{2126}'..='\u{2126}',
        '\u{212a}'..='\u{212b}',
        '\u{2460}'..='\u{24ff}',
        '\u{2800}'..='\u{2800}',
        '\u{3000}'..='\u{3004}',
        '\u{3164}'..='\u{3164}',
        // Variation selectors, and vertical, combining half and small forms of punctuation.
        '\u{fe00}'..='\u{fe1f}',
        '\u{fe30}'..='\u{fe6f}',
        '\u{feff}'..='\u{feff}',
        // Forms of other widths, and specials.
        '\u{ff00}'..='\u{ffff}',
        '\u{1bca0}'..='\u{1bca3}',
        '\u{1d173}'..='\u{1d17a}',
        '\u{e0000}'..='\u{e0fff}',
    ];

    /// Returns the length of the A-label of a label that is in lower case and normalized (RFC 3492 section 6.3).
    pub(super) fn a_label_len(label: &str) -> usize {
        let basic = label.bytes().filter(u8::is_ascii).count();
        if basic == label.len() {
            return basic;
        }
        let delimiter = usize::from(basic > 0);
        let mut len = "xn--".len() + basic + delimiter;
        let (mut n, mut delta, mut bias, mut handled) = (0x80, 0_u32, 72, basic as u32);
        // The smallest unhandled character comes next.
        let points = || label.chars().map(u32::from);
        while let Some(next) = points().filter(|&point| point >= n).min() {
            delta += (next - n) * (handled + 1);
            for point in points() {
                delta += u32::from(point < next);
                if point == next {
                    len += digits(delta, bias);
                    bias = adapted(delta, handled + 1, handled == basic as u32);
                    delta = 0;
                    handled += 1;
                }
            }
            delta += 1;
            n = next + 1;
        }
        len
    }

    /// Returns how many digits a number has (RFC 3492 section 3.3).
    fn digits(mut number: u32, bias: u32) -> usize {
        for k in 1_u32.. {
            let threshold = (36 * k).saturating_sub(bias).clamp(1, 26);
            if number < threshold {
                return k as usize;
            }
            number = (number - threshold) / (36 - threshold);
        }
        0
    }

    /// Returns the next bias (RFC 3492 section 6.1).
    pub(super) fn adapted(delta: u32, points: u32, is_first: bool) -> u32 {
        let mut delta = delta / if is_first { 700 } else { 2 };
        delta += delta / points;
        let mut k = 0;
        while delta > 455 {
            delta /= 35;
            k += 36;
        }
        k + 36 * delta / (delta + 38)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{AddressErrorKind, AddressPart, Domain};

    fn kind(text: &str) -> AddressErrorKind {
        text.parse::<Domain>().expect_err(text).kind()
    }

    #[test]
    fn invisible_characters_and_ascii_lookalikes_are_rejected() {
        for text in [
            "exam\u{200b}ple.org",
            "exam\u{ad}ple.org",
            "exam\u{2060}ple.org",
            "exam\u{feff}ple.org",
            "exam\u{34f}ple.org",
            "exam\u{180b}ple.org",
            "exam\u{115f}ple.org",
            "exam\u{3164}ple.org",
            "exam\u{ffa0}ple.org",
            "exam\u{17b4}ple.org",
            "exam\u{2800}ple.org",
            "exam\u{202e}ple.org",
            "exam\u{200e}ple.org",
            "exam\u{61c}ple.org",
            "exam\u{fe0f}ple.org",
            "exam\u{e0061}ple.org",
            "\u{ad}.org",
            "evil＠example.org",
            "exa＞mple.org",
            "a．．／．．／etc",
            "ｅxample.org",
            "a＊.org",
            "a＿b.org",
            "［127.0.0.1］",
            "⑴.org",
            "example.org。",
            "例え。テスト",
            "例え｡テスト",
            "－a.org",
            "a\u{2024}b.org",
            "a\u{2044}b.org",
            "ban\u{212a}.org",
            "ban\u{212a}.grå",
            "gr\u{212b}.org",
            "\u{2126}.org",
            "a\u{37e}b.org",
            "a\u{1fef}b.org",
        ] {
            assert_eq!(kind(text), AddressErrorKind::DisallowedLabel, "{text:?}");
        }
    }

    #[test]
    #[cfg(feature = "idna")]
    fn what_idna2008_disallows_is_refused() {
        for text in [
            "a℀b.org",
            "ü℡.org",
            "ﬁx.org",
            "ſix.org",
            // Context: joiners, marks at the start, hyphens, directions.
            "a\u{200d}b.org",
            "a\u{200c}b.org",
            "\u{301}a.org",
            "ab--ü.org",
            "אa.org",
            "1א.org",
            // Letters and marks with a rule of their own, symbols, unassigned code points, private use.
            "ب\u{640}ب.org",
            "か\u{3031}.org",
            "\u{1112}\u{119e}.org",
            "a\u{20dd}.org",
            "a\u{1d165}.org",
            "a÷b.org",
            "a\u{589}b.org",
            "a\u{2215}b.org",
            "a\u{378}.org",
            "a\u{e000}.org",
            // Characters that normalization replaces by another one.
            "\u{f900}.org",
            "\u{1f71}.org",
            // Invalid A-labels beside a U-label.
            "xn--a.grå",
            "xn--grå.org",
        ] {
            assert_eq!(kind(text), AddressErrorKind::DisallowedLabel, "{text:?}");
        }
    }

    #[test]
    fn what_idna2008_allows_is_accepted() {
        for text in [
            "faß.example",
            "βόλος.example",
            "ΒΌΛΟΣ.example",
            "BU\u{308}CHER.example",
            "a\u{30a}.example",
            "\u{958}.example",
            "bücher.r3---sn-a.example",
            "İstanbul.example",
            "l·l.example",
            "ファミリー・マート.example",
            "一〇.example",
            "人々.example",
            "ශ්\u{200d}රී.example",
            "نامه\u{200c}ای.example",
            "ب٣٤.example",
            "א׳א.example",
            "ᏣᎳᎩ.example",
            "คน.example",
            "한국.example",
            "\u{1112}\u{1161}\u{11ab}.example",
            "हिन्दी.example",
            "xn--gr-zia.grå",
            // Emoji, which IDNA2008 does not allow, but some registries do.
            "i❤.ws",
            "💩.la",
        ] {
            assert!(text.parse::<Domain>().is_ok(), "{text:?}");
        }
    }

    /// As the documentation of `Domain::parse` says.
    #[test]
    fn contexts_of_punctuation_and_names_in_ascii_are_not_checked() {
        for text in ["a\u{b7}b.example", "\u{5f3}.example", "xn--a.example"] {
            assert!(text.parse::<Domain>().is_ok(), "{text:?}");
        }
    }

    #[test]
    fn a_label_that_is_too_long_for_the_dns_is_rejected() {
        let part = AddressPart::Label;
        let too_long = AddressErrorKind::TooLong { part };
        // `xn--`, the letters, a hyphen and three digits.
        let label = |letters: usize| format!("{}ü.example", "b".repeat(letters));
        assert!(label(55).parse::<Domain>().is_ok());
        assert_eq!(kind(&label(56)), too_long);
        assert_eq!(kind(&"я".repeat(63)), too_long);
        let part = AddressPart::Domain;
        let long = [label(54).as_str(); 3].join(".") + &".b".repeat(24);
        assert!(long.len() < 255, "{}", long.len());
        assert_eq!(kind(&long), AddressErrorKind::TooLong { part });
    }

    #[cfg(feature = "idna")]
    proptest::proptest! {
        #[test]
        fn the_length_of_an_a_label_is_the_same_without_tables(label in "[a-z0-9éßя例한נ😀-]{1,40}") {
            if let Some(ascii) = super::to_ascii(&label) {
                proptest::prop_assert_eq!(super::without_tables::a_label_len(&label), ascii.len());
            }
        }
    }

    /// RFC 3492 section 6.1: the delta is scaled down while it is greater than 455, ((36 - 1) * 26) / 2.
    #[test]
    fn the_bias_is_adapted_as_the_algorithm_says_at_its_border() {
        let adapted = super::without_tables::adapted;
        assert_eq!(adapted(2 * 455, 1000, false), 36 * 455 / (455 + 38));
        assert_eq!(adapted(2 * 456, 1000, false), 36 + 36 * 13 / (13 + 38));
        assert_eq!(adapted(700 * 455, 1000, true), 36 * 455 / (455 + 38));
    }

    #[test]
    #[cfg(feature = "idna")]
    fn what_is_rejected_without_tables_is_rejected_with_them() {
        let all = ('\0'..=char::MAX).filter(|&c| super::without_tables::is_disallowed(c));
        for c in all {
            let domain = format!("a{c}b.org").parse::<Domain>();
            assert!(domain.is_err(), "{c:?}");
        }
    }
}
