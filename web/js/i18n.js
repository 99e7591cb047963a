// All words of ours on the page in its language, numbers in that language's form.
// ../texts/LANGUAGE.json holds them; what a language does not have is English.

const LANGUAGES = new Set(["de", "en", "fr", "ja", "zh"]);

const texts = { en: await read("en") };
const formats = new Map(); // of the language that is spoken, by number of decimals
let wanted = "en";
let spoken = "en";

/** A language's texts; none where the server does not answer. */
async function read(language) {
  try {
    const answer = await fetch(new URL(`../texts/${language}.json`, import.meta.url));
    return answer.ok ? await answer.json() : {};
  } catch {
    return {};
  }
}

/** Speak a page's language, "zh-TW" as "zh", others as English; true when that is another now. */
export async function speak(locale) {
  const base = String(locale ?? "").split("-")[0];
  const language = LANGUAGES.has(base) ? base : "en";
  if (language === wanted) return false;
  wanted = language;
  texts[language] ??= await read(language);
  if (language !== wanted || language === spoken) return false; // changed again meanwhile
  spoken = language;
  formats.clear();
  return true;
}

/** The language that is spoken, for `lang` and for what Intl formats. */
export function language() {
  return spoken;
}

/**
 * A text with its {values}: numbers in the language's form, and by `count` its singular or plural.
 * For a key that no language has stands `otherwise`.
 */
export function text(key, values = {}, otherwise = key) {
  let found = texts[spoken]?.[key] ?? texts.en[key] ?? otherwise;
  if (typeof found === "object") {
    found = found[new Intl.PluralRules(spoken).select(values.count)] ?? found.other;
  }
  return found.replace(/\{(\w+)\}/g, (_, name) => {
    const value = values[name];
    return typeof value === "number" ? localised(String(value)) : (value ?? "–");
  });
}

/** A sentence of the server's: a Message of guidance/message.py, or one in English only. */
export function said({ key = "", values = {}, text: english }) {
  return text(key, values, english);
}

/** A decimal number as JavaScript writes it, in the language's form and with a real minus sign. */
export function localised(number) {
  const [mantissa, exponent] = number.split("e");
  const decimals = mantissa.split(".")[1]?.length ?? 0;
  if (!formats.has(decimals)) {
    const digits = { minimumFractionDigits: decimals, maximumFractionDigits: decimals };
    formats.set(decimals, new Intl.NumberFormat(spoken, { useGrouping: "min2", ...digits }));
  }
  const written = formats.get(decimals).format(Number(mantissa));
  const power = exponent === undefined ? "" : `e${Number(exponent)}`;
  return `${written}${power}`.replaceAll("-", "−");
}
