#pragma once
// The look and the few lines of script of inspect/report.hpp. The page works without the script:
// then every layer is shown, one below the other.
namespace moraine::inspect::detail {

inline constexpr const char* report_css = R"css(
:root{color-scheme:light dark;--paper:#fbfbf9;--card:#fff;--ink:#1b1d21;--soft:#555b66;
--line:#d9dbe0;--accent:#00629b;--tint:#eaf3f9;--mark:#e69f00}
@media (prefers-color-scheme:dark){:root{--paper:#14161a;--card:#1c1f25;--ink:#eceef2;
--soft:#a9b0bc;
--line:#363b45;--accent:#6bbdf0;--tint:#1d2b38;--mark:#e69f00}}
*{box-sizing:border-box}
html{scroll-padding-top:1rem}
@media (prefers-reduced-motion:no-preference){html{scroll-behavior:smooth}}
body{margin:0;background:var(--paper);color:var(--ink);
font:1.125rem/1.6 system-ui,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",Arial,sans-serif}
a{color:var(--accent)}
.skip{position:absolute;left:-99rem}
.skip:focus{left:1rem;top:1rem;background:var(--card);padding:.5rem 1rem;z-index:9}
:focus-visible{outline:3px solid var(--accent);outline-offset:2px;border-radius:3px}
.page{display:grid;grid-template-columns:15rem minmax(0,62rem);gap:3rem;justify-content:center;
padding:0 1.5rem}
nav{position:sticky;top:0;align-self:start;padding:2.6rem 0;font-size:1rem}
nav ol{list-style:none;margin:0;padding:0;border-left:2px solid var(--line)}
nav a{display:block;padding:.3rem 0 .3rem 1rem;text-decoration:none;color:var(--soft);
margin-left:-2px;border-left:2px solid transparent}
nav a:hover,nav a:focus{color:var(--ink);border-color:var(--accent)}
header{padding:2.4rem 0 .5rem}
h1{font-size:2.5rem;line-height:1.15;margin:0 0 .6rem;letter-spacing:-.02em;text-wrap:balance}
.sub{font-size:1.25rem;color:var(--soft);margin:0;max-width:46rem}
main>section{margin:2.6rem 0;padding-top:1.4rem;border-top:2px solid var(--ink)}
h2{font-size:1.75rem;line-height:1.2;margin:0 0 .8rem;letter-spacing:-.01em}
h3{font-size:1.25rem;margin:1.8rem 0 .5rem}
h4{font-size:1.06rem;margin:1.1rem 0 .4rem}
p{margin:.6rem 0;max-width:46rem}
.how{background:var(--tint);border-left:4px solid var(--accent);padding:.7rem 1.1rem;margin:1rem 0;
border-radius:0 6px 6px 0;max-width:none}
.how b{display:block;font-size:.94rem;letter-spacing:.02em;color:var(--accent)}
.how p{margin:.15rem 0;max-width:none}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(11rem,1fr));gap:.8rem;
margin:1.4rem 0}
.facts div{background:var(--card);border:1px solid var(--line);border-radius:8px;
padding:.7rem .9rem}
.facts dt{font-size:.94rem;color:var(--soft)}
.facts dd{margin:0;font-size:1.4rem;font-weight:650;line-height:1.3;overflow-wrap:anywhere}
figure{margin:0}
.pictures{display:grid;gap:1.1rem;margin:1rem 0;grid-template-columns:repeat(auto-fit,
minmax(15rem,1fr))}
.pictures img,.stack{width:100%;display:block;border:1px solid var(--line);border-radius:4px;
image-rendering:pixelated;background-color:#c8c8c8}
.pictures img{height:auto}
figcaption{margin-top:.35rem;font-size:1rem;line-height:1.4;color:var(--soft)}
figcaption b{color:var(--ink)}
.legend{display:flex;flex-wrap:wrap;gap:.3rem 1.3rem;list-style:none;margin:.9rem 0;padding:0;
font-size:1.06rem}
.legend li{display:flex;align-items:center;gap:.5rem}
.swatch{display:inline-block;width:1.25rem;height:1.25rem;border-radius:3px;flex:none;
border:1px solid color-mix(in srgb,var(--ink) 45%,transparent)}
.note{color:var(--soft)}
.bar{display:inline-block;width:11rem;height:1.1rem;border-radius:3px;
border:1px solid color-mix(in srgb,var(--ink) 45%,transparent)}
.chart,.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--line);
border-radius:8px;
margin:1rem 0;padding:.9rem}
.chart svg{display:block;width:100%;min-width:40rem;height:auto}
table{border-collapse:collapse;width:100%;font-size:1rem;font-variant-numeric:tabular-nums}
caption{text-align:left;font-weight:600;padding:.1rem .3rem .6rem}
th,td{padding:.38rem .4rem;text-align:left;border-bottom:1px solid var(--line);
vertical-align:baseline}
th.n,td.n{text-align:right;white-space:nowrap}
thead th,thead th.n{border-bottom:2px solid var(--ink);vertical-align:bottom;line-height:1.25;
white-space:normal}
tbody th{font-weight:500;white-space:nowrap}
td.best{font-weight:750}
td.best{color:var(--accent);text-decoration:underline;text-decoration-thickness:2px;
text-underline-offset:4px}
.spread{display:block;font-size:.9rem;color:var(--soft);font-weight:400}
.spread::before{content:"\00B1\2009"}
details{margin:.7rem 0}
summary{cursor:pointer;font-weight:600;padding:.3rem 0}
.findings{padding-left:1.3rem;max-width:48rem}
.findings li{margin:.35rem 0}
.controls{display:flex;flex-wrap:wrap;gap:.6rem 1.8rem;align-items:center;background:var(--card);
border:1px solid var(--line);border-radius:8px;padding:.7rem 1rem;margin:1rem 0;position:sticky;
top:0;z-index:3}
.controls[hidden]{display:none}
.controls label{display:flex;gap:.6rem;align-items:center}
.controls input[type=range]{width:13rem;accent-color:var(--accent)}
.controls input[type=checkbox]{width:1.2rem;height:1.2rem;accent-color:var(--accent)}
.controls output{font-weight:700;min-width:4.5rem}
.one .layer{display:none}
.one .layer.now{display:block}
.stack{position:relative;background-image:var(--scene);background-size:100% 100%;
aspect-ratio:var(--ratio)}
.stack img{position:absolute;inset:0;width:100%;height:100%;image-rendering:pixelated;
opacity:var(--blend,1)}
.lens .stack{cursor:crosshair}
.cell{position:absolute;border:3px solid #fff;outline:2px solid #000;pointer-events:none;
border-radius:2px}
.readout{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.6rem 1rem;
margin:1rem 0;overflow-x:auto}
.readout table{width:auto}
.readout td,.readout th{white-space:nowrap;font-size:.94rem}
.chip{display:inline-block;min-width:1.7rem;text-align:center;border-radius:4px;padding:0 .35rem;
font-weight:700;
border:1px solid color-mix(in srgb,var(--ink) 40%,transparent)}
footer{color:var(--soft);border-top:1px solid var(--line);padding:1rem 0 3rem;font-size:1rem}
@media (max-width:68rem){.page{grid-template-columns:minmax(0,62rem);gap:0}
nav{position:static;padding:1.2rem 0 0}nav ol{display:flex;flex-wrap:wrap;border:0;gap:.2rem .4rem}
nav a{border:1px solid var(--line);border-radius:2rem;padding:.2rem .8rem;margin:0}h1{
font-size:2rem}
header{padding-top:1.4rem}}
@media print{nav,.controls,.readout{display:none}.page{display:block}
.one .layer{display:block}main>section,figure,.chart{break-inside:avoid}}
)css";

inline constexpr const char* report_js = R"js(
(function(){
'use strict';
document.querySelectorAll('.layers').forEach(function(box){
  var layers=[].slice.call(box.querySelectorAll('.layer')),bar=box.querySelector('.controls');
  var slide=bar.querySelector('.which'),out=bar.querySelector('output');
  var blend=bar.querySelector('.blend'),all=bar.querySelector('.all');
  function show(){
    var i=+slide.value,name=layers[i].dataset.layer;
    box.classList.toggle('one',!all.checked);
    layers.forEach(function(l,k){l.classList.toggle('now',k===i)});
    out.textContent=name;slide.setAttribute('aria-valuetext','layer '+name);
  }
  slide.addEventListener('input',function(){all.checked=false;show()});
  all.addEventListener('change',show);
  if(blend)blend.addEventListener('input',function(){box.style.setProperty('--blend',
  blend.value/100)});
  bar.hidden=false;show();

  var rows=[].slice.call(box.querySelectorAll('[data-v]'));
  if(!rows.length)return;
  var w=+box.dataset.w,h=+box.dataset.h,colours=box.dataset.colours.split(' ');
  var inks=box.dataset.inks.split(' '),read=box.querySelector('.readout'),x=w>>1,y=h>>1;
  rows.forEach(function(r){var s=atob(r.dataset.v),v=new Uint8Array(s.length);
    for(var i=0;i<s.length;i++)v[i]=s.charCodeAt(i);r.values=v});
  box.classList.add('lens');read.hidden=false;
  function cell(tag,text,to){var c=document.createElement(tag);c.textContent=text;
  to.appendChild(c);return c}
  function look(){
    var streams={},order=[];
    rows.forEach(function(r){var s=r.dataset.stream;if(!streams[s]){streams[s]=[];order.push(s)}
      streams[s].push(r)});
    box.querySelectorAll('.cell').forEach(function(c){c.remove()});
    box.querySelectorAll('.layer.now .stack').forEach(function(s){
      var c=document.createElement('div');c.className='cell';
      c.style.left=100*(x+.5)/w+'%';c.style.top=100*(y+.5)/h+'%';
      c.style.transform='translate(-50%,-50%)';
      c.style.width='max(12px,'+100/w+'%)';c.style.height='max(12px,'+100/h+'%)';s.appendChild(c)});
    while(read.firstChild)read.removeChild(read.firstChild);
    cell('b','Patch in row '+y+', column '+x+': its expert in every layer'+
      ' (p: its probability, H: the entropy)',read);
    var t=document.createElement('table'),head=document.createElement('tr'),
    top=document.createElement('thead');
    cell('th','layer',head);
    streams[order[0]].forEach(function(r){cell('th',r.dataset.layer,head)});
    top.appendChild(head);t.appendChild(top);
    var body=document.createElement('tbody');t.appendChild(body);
    order.forEach(function(s){
      var tr=document.createElement('tr');cell('th',s,tr);
      streams[s].forEach(function(r){
        var i=y*w+x,n=w*h,e=r.values[i],td=document.createElement('td');
        if(e===255){td.textContent='\u2013'}else{
          var chip=cell('span',e,td);chip.className='chip';
          chip.style.background=colours[e%colours.length];chip.style.color=inks[e%inks.length];
          cell('span',' p '+(r.values[n+i]/254).toFixed(2),td);
          cell('div','H '+(r.values[2*n+i]/254).toFixed(2),td)}
        tr.appendChild(td)});
      body.appendChild(tr)});
    read.appendChild(t);
  }
  box.querySelectorAll('.stack').forEach(function(s){
    s.tabIndex=0;
    s.addEventListener('click',function(e){var b=s.getBoundingClientRect();
      x=Math.min(w-1,Math.max(0,Math.floor((e.clientX-b.left)/b.width*w)));
      y=Math.min(h-1,Math.max(0,Math.floor((e.clientY-b.top)/b.height*h)));look()});
    s.addEventListener('keydown',function(e){
      var k={ArrowLeft:[-1,0],ArrowRight:[1,0],ArrowUp:[0,-1],ArrowDown:[0,1]}[e.key];
      if(!k)return;
      e.preventDefault();
      x=Math.min(w-1,Math.max(0,x+k[0]));y=Math.min(h-1,Math.max(0,y+k[1]));look()});
  });
  slide.addEventListener('input',look);all.addEventListener('change',look);look();
});
})();
)js";

}  // namespace moraine::inspect::detail
